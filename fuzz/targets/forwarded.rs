#![no_main]

#[path = "../properties/between.rs"]
mod between;
#[path = "../properties/forwarded.rs"]
mod forwarded;

libfuzzer_sys::fuzz_target!(|data: &[u8]| forwarded::holds(data));
