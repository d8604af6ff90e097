#![no_main]

#[path = "../properties/between.rs"]
mod between;
#[path = "../properties/response.rs"]
mod response;

libfuzzer_sys::fuzz_target!(|data: &[u8]| response::holds(data));
