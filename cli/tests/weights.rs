//! What weight formats cost on a real language model, on every level that this machine has.
#![cfg(feature = "llvm")]

mod common;

use common::{expect, json, text, tiny_lm};
use std::path::Path;

/// Prose that the demo model has not seen.
fn prose() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md"))
}

/// Error of the logits, and relative change of perplexity.
fn measured(format: &str, level: &str) -> (f64, f64) {
    let model = text(&tiny_lm());
    let args = ["quantize", &model, "--weights", format, "--calibrate", &prose(), "--target-cpu", level];
    let found = json("ssmc.quantize.v1", &args);
    let number = |key: &str| found["measured"][key].as_f64().expect("it is a number");
    for weight in found["weights"].as_array().expect("weights are listed") {
        let (weight, product) = (weight["error"].as_f64(), weight["product_error"].as_f64());
        // Rows are rounded too, and the errors of a sum cancel each other.
        let bound = weight.map_or(0.0, |error| 3.0 * error + 0.02);
        assert!(product.is_some_and(|error| error > 0.0 && error < bound), "{found}");
    }
    assert!(number("perplexity_before") < 1000.0, "{found}");
    (number("logits_error"), number("perplexity_after") / number("perplexity_before") - 1.0)
}

fn check(format: &str, bound: f64, perplexity: f64) {
    let (error, change) = measured(format, "native");
    println!("{format}: logits {error}, perplexity {change}");
    // Something must have been stored in fewer bits.
    assert!(error <= bound && error > 0.0, "{format}: {error}");
    assert!(change.abs() <= perplexity, "{format}: {change}");
}

#[test]
fn eight_bits_stay_within_three_percent() {
    check("int8", 0.03, 0.01);
}

#[test]
fn four_bits_stay_within_eight_percent() {
    check("int4", 0.08, 0.04);
}

/// The demo model is stored in bf16 already: what is left is the rounding of rows, on levels that do so.
#[test]
fn halves_stay_within_one_percent() {
    let (error, change) = measured("bf16", "native");
    assert!(error <= 0.01 && change.abs() <= 0.001, "{error} {change}");
    let (error, _) = measured("f16", "x86-64-v3");
    assert!(error <= 0.01 && error > 0.0, "{error}");
}

#[test]
fn greedy_text_stays_and_golden_vectors_hold() {
    let dir = tempfile::tempdir().expect("there is room for a folder");
    let arrays = ssmc_npz::read(&tiny_lm().join("reference_greedy.npz")).expect("the reference is there");
    let expected: Vec<i64> = arrays["tokens"].to_f64().iter().take(32).map(|x| *x as i64).collect();
    for format in ["bf16", "int8"] {
        let artifact = text(&dir.path().join(format!("{format}.ssmc")));
        let args = ["compile", &text(&tiny_lm()), "-o", &artifact, "--weights", format];
        expect(0, &[args.as_slice(), &["--target-cpu", "x86-64-v3", "--target-cpu", "native"]].concat());
        expect(0, &["selftest", &artifact]);
        let tokenizer = text(&tiny_lm().join("tokenizer.json"));
        let args = ["generate", &artifact, "--tokenizer", &tokenizer, "--bos", "0", "--max-tokens", "32"];
        let found =
            json("ssmc.generate.v1", &[args.as_slice(), &["--prompt", "To create a new table,"]].concat());
        assert_eq!(found["tokens"], serde_json::json!(expected), "{format}");
    }
}

#[test]
fn missing_and_unknown_formats_are_named() {
    let model = text(&tiny_lm());
    let (_, stderr) = expect(2, &["quantize", &model]);
    assert!(stderr.contains("--weights"), "{stderr}");
    let (_, stderr) = expect(2, &["compile", &model, "--weights", "int3"]);
    assert!(stderr.contains("int4-128"), "{stderr}");
}
