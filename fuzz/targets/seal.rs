#![no_main]

#[path = "../properties/seal.rs"]
mod seal;

libfuzzer_sys::fuzz_target!(|data: &[u8]| seal::holds(data));
