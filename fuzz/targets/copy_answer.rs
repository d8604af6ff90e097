#![no_main]

#[path = "../properties/between.rs"]
mod between;
#[path = "../properties/copy_answer.rs"]
mod copy_answer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| copy_answer::holds(data));
