#![no_main]

#[path = "../properties/between.rs"]
mod between;
#[path = "../properties/target.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::holds(data));
