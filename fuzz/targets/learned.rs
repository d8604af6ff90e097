#![no_main]

#[path = "../properties/learned.rs"]
mod learned;

libfuzzer_sys::fuzz_target!(|data: &[u8]| learned::holds(data));
