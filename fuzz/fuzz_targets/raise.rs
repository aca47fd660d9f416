//! The passes up to stage raised, and rewriting.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssmc_tests::fuzz::Fuzzer;
use std::sync::LazyLock;

static FUZZER: LazyLock<Fuzzer> = LazyLock::new(|| Fuzzer::new().expect("a temporary folder can be made"));

fuzz_target!(|bytes: &[u8]| FUZZER.raise(bytes));
