#![no_main]

#[path = "../properties/haproxy.rs"]
mod haproxy;
#[path = "../properties/imported.rs"]
mod imported;

libfuzzer_sys::fuzz_target!(|data: &[u8]| haproxy::holds(data));
