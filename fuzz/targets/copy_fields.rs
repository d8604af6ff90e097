#![no_main]

#[path = "../properties/copy_fields.rs"]
mod copy_fields;

libfuzzer_sys::fuzz_target!(|data: &[u8]| copy_fields::holds(data));
