#![no_main]

#[path = "../properties/imported.rs"]
mod imported;
#[path = "../properties/nginx.rs"]
mod nginx;

libfuzzer_sys::fuzz_target!(|data: &[u8]| nginx::holds(data));
