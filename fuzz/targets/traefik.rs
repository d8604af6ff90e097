#![no_main]

#[path = "../properties/imported.rs"]
mod imported;
#[path = "../properties/traefik.rs"]
mod traefik;

libfuzzer_sys::fuzz_target!(|data: &[u8]| traefik::holds(data));
