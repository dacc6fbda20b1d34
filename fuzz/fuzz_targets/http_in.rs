#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| httpteleport_fuzz::http_in::check(input));
