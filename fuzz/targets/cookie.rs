#![no_main]

#[path = "../properties/cookie.rs"]
mod cookie;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cookie::holds(data));
