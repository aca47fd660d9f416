use super::*;
use clap::Parser;
use ssmc_codegen::kernel::text::parse;
use ssmc_ir::Model;
use std::fs;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

const TEXT: &str = "func @f(%x: f32[batch, 5], %z: f32[batch, 5]) {
    %1 = tanh %x : f32[batch, 5]
    %2 = add %1, %z : f32[batch, 5]
    return %2 \"y\"
}";

/// Compiles the text for v3, lets `spoil` change it, runs it and compares.
fn verified(
    reference: Option<&Path>,
    spoil: impl FnOnce(&mut Compiled),
) -> (Vec<bool>, Option<blame::Culprit>) {
    let line = Line::parse_from(["verify", "model.onnx", "--target-cpu", "x86-64-v3"]);
    let args = line.args;
    let model = Model { graph: ssmc_ir::parse(TEXT).unwrap(), ..Model::default() };
    let mut job = Job::new(&args.model, &args.compile).unwrap();
    let mut compiled = job.compile(&model).unwrap();
    spoil(&mut compiled);
    let (artifact, _dir) = job.temporary(&compiled, &model).unwrap();
    let mut verifier = Verifier {
        args: &args,
        compiled: &compiled,
        compiler: &job.compiler,
        artifact: &artifact,
        tolerance: Tolerance { rtol: 1e-4, atol: 0.0 },
        progress: &job.progress,
        compared: Vec::new(),
        layers: Vec::new(),
        culprit: None,
        nodes: Vec::new(),
    };
    match reference {
        Some(path) => verifier.with_reference(path).unwrap(),
        None => verifier.with_interpreter().unwrap(),
    }
    (verifier.compared.iter().map(Compared::passed).collect(), verifier.culprit)
}

#[test]
fn what_is_right_has_no_culprit() {
    let (passed, culprit) = verified(None, |_| {});
    assert_eq!(passed, [true]);
    assert!(culprit.is_none());
}

#[test]
fn a_wrong_lowering_is_blamed_on_its_kernel() {
    let (passed, culprit) = verified(None, |compiled| {
        for kernel in &mut compiled.kernels.kernels {
            for form in &mut kernel.per_level {
                let text = form.to_string();
                let wrong = text.replace("f32x8 = add", "f32x8 = sub").replace("f32 = add", "f32 = sub");
                assert_ne!(text, wrong, "the kernel adds");
                *form = parse(&wrong).unwrap();
            }
        }
    });
    assert_eq!(passed, [false]);
    let culprit = culprit.unwrap();
    assert!(matches!(culprit, blame::Culprit::Kernel { stage: ssmc_ir::Stage::Kernel, .. }), "{culprit}");
    assert_eq!(culprit.to_json()["stage"], "kernel");
}

#[test]
fn a_wrong_record_is_blamed_on_the_import_or_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case.npz");
    let tensor = |x: f64| Tensor::floats(ssmc_ir::DType::F32, [1, 5], vec![x; 5]).unwrap();
    let record =
        |y: f64| Tensors::from([("x", 0.5), ("z", 1.0), ("y", y)].map(|(n, v)| (n.to_owned(), tensor(v))));
    tensors::write(&path, &record(0.5f64.tanh() + 1.0)).unwrap();
    let (passed, culprit) = verified(Some(&path), |_| {});
    assert!(passed == [true] && culprit.is_none());
    fs::remove_file(&path).unwrap();
    tensors::write(&path, &record(0.5f64.tanh() + 1.01)).unwrap();
    let (passed, culprit) = verified(Some(&path), |_| {});
    assert_eq!(passed, [false]);
    assert!(matches!(culprit, Some(blame::Culprit::Import)));
}

#[cfg(not(feature = "oracle"))]
#[test]
fn other_engines_are_part_of_a_feature() {
    let args = Line::parse_from(["verify", "model.onnx", "--against", "tract"]).args;
    assert_eq!(run(&args, true).unwrap_err().kind, Kind::Unsupported);
}

#[cfg(feature = "oracle")]
#[test]
fn tract_agrees_and_the_first_node_that_differs_is_named() {
    use ssmc_frontend::onnx::export::{ExportOptions, encode};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    let options = ExportOptions { opset: 17, doc: String::new(), external_data: false };
    let graph = ssmc_ir::parse(TEXT).unwrap();
    fs::write(&path, encode(&graph, &ssmc_ir::Weights::default(), &options, "data").unwrap().model).unwrap();
    let verified = |more: &[&str]| {
        let fixed = ["verify", path.to_str().unwrap(), "--against", "tract", "--target-cpu", "x86-64-v3"];
        run(&Line::parse_from(fixed.iter().chain(more)).args, true)
    };
    verified(&["--per-layer"]).unwrap();
    // No two engines round in the same way.
    let failure = verified(&["--rtol", "0"]).unwrap_err();
    assert_eq!(failure.kind, Kind::Check);
    assert!(failure.message.contains("the first node that differs: node \"Tanh_0\""), "{failure}");
}
