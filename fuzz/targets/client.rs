#![no_main]

#[path = "../properties/client.rs"]
mod client;

libfuzzer_sys::fuzz_target!(|data: &[u8]| client::holds(data));
