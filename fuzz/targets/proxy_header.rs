#![no_main]

#[path = "../properties/between.rs"]
mod between;
#[path = "../properties/proxy_header.rs"]
mod proxy_header;

libfuzzer_sys::fuzz_target!(|data: &[u8]| proxy_header::holds(data));
