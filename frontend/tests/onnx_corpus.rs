//! Real exporters' files: they import, or are refused for the right reason.

#[allow(clippy::unwrap_used, reason = "a test's helper may panic")]
#[path = "safetensors/npz.rs"]
mod npz;

use ssmc_frontend::{ImportError, onnx};
use ssmc_ir::interp::Interpreter;
use ssmc_ir::stage::Stage;
use ssmc_ir::verify::verify;
use std::path::PathBuf;

/// The folder of a corpus case, or `None` (said aloud) where there is no corpus.
fn case(name: &str) -> Option<PathBuf> {
    let Some(corpus) = std::env::var_os("SSMC_CORPUS") else {
        println!("skipped {name}: SSMC_CORPUS is not set");
        return None;
    };
    Some(PathBuf::from(corpus).join(name))
}

/// The file imports into primitive ops with this many loops, and the interpreter gives the reference outputs in
/// `f64` but for what the exporter itself rounded to `f32`.
fn check(name: &str, n_loops: usize, limit: f64) {
    let Some(folder) = case(name) else { return };
    let model = onnx::import(&folder.join("model.onnx")).unwrap_or_else(|e| panic!("{e}"));
    let loops = model.graph.nodes().filter(|(_, n)| n.op.name() == "loop").count();
    assert_eq!(loops, n_loops, "loops of {name}");
    let faults = verify(&model.graph, Stage::Imported);
    assert!(faults.is_empty(), "{name}: {faults:?}");
    let text = model.graph.to_string();
    let parsed = ssmc_ir::parse(&text).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert!(parsed.to_string() == text, "the text of {name} reads back");
    let mut n_sets = 0;
    while folder.join(format!("inputs_{n_sets}.npz")).exists() {
        let inputs = npz::read(&folder.join(format!("inputs_{n_sets}.npz")));
        let outputs =
            Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap_or_else(|e| panic!("{e}"));
        for (output, expected) in npz::read(&folder.join(format!("outputs64_{n_sets}.npz"))) {
            let found = &outputs[&output];
            assert_eq!(found.shape(), expected.shape(), "{name} {n_sets} {output}");
            let deviation = deviation(&found.to_f64(), &expected.to_f64());
            println!("{name} {n_sets} {output}: {deviation:e}");
            assert!(deviation < limit, "{name} {n_sets} {output}: {deviation:e}");
        }
        n_sets += 1;
    }
    assert!(n_sets > 0, "{name} has inputs");
}

/// max|y - ref| / max|ref|; infinite if an element is NaN.
fn deviation(found: &[f64], expected: &[f64]) -> f64 {
    let peak = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).map(|(x, y)| (x - y).abs());
    worst.fold(0f64, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / peak
}

#[test]
fn a_perturbed_reference_is_noticed() {
    assert!(deviation(&[1.0, 2.0], &[1.0, 2.001]) > 1e-4);
    assert!(deviation(&[f64::NAN], &[1.0]).is_infinite());
}

#[test]
fn hf_mamba_scan_dynamic() {
    check("hf_mamba_scan_dynamic_dynamo21", 2, 1e-6);
}

#[test]
fn hf_mamba_scan() {
    check("hf_mamba_scan_dynamo20", 2, 1e-6);
}

#[test]
fn hf_mamba_scan_external_data() {
    check("hf_mamba_scan_external_data", 2, 1e-6);
}

#[test]
fn mambapy_scan() {
    check("mambapy_scan_dynlen_dynamo20", 2, 1e-6);
}

#[test]
fn trained_typeseg() {
    check("trained_typeseg_bimamba_scan", 12, 1e-6);
}

#[test]
fn a_negative_permutation_is_refused_with_node_and_attribute() {
    let Some(folder) = case("invalid_negative_perm") else { return };
    let error = onnx::import(&folder.join("model.onnx")).expect_err("perm has negative entries");
    assert!(matches!(error, ImportError::Invalid { .. }), "{error}");
    let fault =
        error.faults().iter().find(|f| f.code == "ssmc::import::attribute").expect("a fault of an attribute");
    assert!(fault.place.contains("Transpose"), "{fault}");
    assert!(fault.message.contains("\"perm\"") && fault.message.contains("-1"), "{fault}");
}
