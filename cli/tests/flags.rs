//! Flags that steer compiling.

mod common;

use common::{expect, json, text, tiny_lm};
use serde_json::Value;
use std::fs;

/// A field of a protobuf message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).expect("the messages are short")], bytes].concat()
}

/// An ONNX model `y = exp(x)` with `x` of shape `[n, 2]`.
fn onnx() -> Vec<u8> {
    let dims = [field(1, &field(2, b"n")), field(1, &[8, 2])].concat();
    let float = field(1, &[&[8, 1], field(2, &dims).as_slice()].concat());
    let port = |name: &str| [field(1, name.as_bytes()), field(2, &float)].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(3, b"n"), field(4, b"Exp")].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &port("x")), field(12, &port("y"))].concat();
    [vec![8, 8], field(7, &graph), field(8, &[16, 17])].concat()
}

/// The graph of the model at stage `imported`, compiled with these shapes.
fn imported(shapes: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("there is room for a folder");
    let (model, dump) = (text(&dir.path().join("m.onnx")), text(&dir.path().join("dump")));
    fs::write(&model, onnx()).expect("the folder can be written to");
    let mut args = vec!["compile", &model, "--stop-after", "imported", "--dump-stages", &dump];
    shapes.iter().for_each(|shape| args.extend(["--input-shapes", shape]));
    expect(0, &args);
    fs::read_to_string(dir.path().join("dump/forward.imported.ssm")).expect("the stage was dumped")
}

#[test]
fn shapes_fix_and_rename_sizes() {
    assert!(imported(&[]).contains("%x: f32[n, 2]"));
    assert!(imported(&["x:3,2"]).contains("%x: f32[3, 2]"));
    assert!(imported(&["x:rows<=64,_"]).contains("%x: f32[rows, 2]"));
}

#[test]
fn shapes_that_do_not_fit_name_input_axis_expected_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let model = text(&dir.path().join("m.onnx"));
    fs::write(&model, onnx()).unwrap();
    let check = |shape: &str| expect(2, &["check", &model, "--input-shapes", shape]).1;
    let stderr = check("x:_,3");
    assert!(stderr.contains("input \"x\" axis 1: expected 2, found 3"), "{stderr}");
    assert!(check("w:1").contains("\"w\""));
    assert!(check("x:1").contains("expected 2 axes, found 1"));
    assert!(check("x").contains("NAME:EXTENT"));
    let folder = text(&tiny_lm());
    let (_, stderr) = expect(2, &["check", &folder, "--input-shapes", "input_ids:1,8"]);
    assert!(stderr.contains("seq_len<=N"), "{stderr}");
    expect(0, &["check", &folder, "--input-shapes", "input_ids:_<=4,_<=512"]);
}

#[test]
fn a_scan_without_the_mode_asked_for_is_named() {
    let model = text(&tiny_lm());
    let (_, stderr) = expect(3, &["compile", &model, "--stop-after", "rewritten", "--mode", "chunked"]);
    assert!(stderr.contains("ssm.selective_scan") && stderr.contains("no chunked mode"), "{stderr}");
    expect(0, &["compile", &model, "--stop-after", "rewritten", "--mode", "recurrent"]);
    expect(2, &["compile", &model, "--mode", "parallel"]);
    let (_, stderr) = expect(3, &["compile", &model, "--target", "riscv64gc-unknown-linux-gnu"]);
    assert!(stderr.contains("found riscv64gc-unknown-linux-gnu"), "{stderr}");
    assert!(stderr.contains("aarch64-unknown-linux-gnu"), "{stderr}");
    expect(0, &["compile", &model, "--target", "cuda", "--stop-after", "legal"]);
    let (_, stderr) = expect(2, &["compile", &model, "--target", "cuda", "--gpu", "sm_20"]);
    assert!(stderr.contains("expected one of sm_80, sm_90a"), "{stderr}");
}

/// Levels by what asks for them: `--target`, `--target-cpu` and `--weights`.
#[test]
fn levels_follow_from_architectures_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let model = text(&dir.path().join("m.onnx"));
    fs::write(&model, onnx()).unwrap();
    let levels = |args: &[&str]| {
        let dump = tempfile::tempdir().unwrap();
        let dump = text(dump.path());
        let all = [&["compile", &model, "--stop-after", "legal", "--dump-stages", &dump], args].concat();
        expect(0, &all);
        let folders = fs::read_dir(&dump).unwrap().map(|entry| entry.unwrap().path());
        let folders = folders.filter(|path| path.is_dir());
        let mut names: Vec<String> =
            folders.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names.join(" ")
    };
    let (x86, arm) = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu");
    assert_eq!(levels(&[]), "x86-64-v3 x86-64-v4");
    assert_eq!(levels(&["--target", arm]), "aarch64");
    assert_eq!(levels(&["--target", &format!("{x86},{arm}")]), "aarch64 x86-64-v3 x86-64-v4");
    assert_eq!(levels(&["--target", arm, "--weights", "int8"]), "aarch64 aarch64-dotprod aarch64-i8mm");
    assert_eq!(levels(&["--target-cpu", "aarch64-i8mm"]), "aarch64-i8mm");
    let mixed = ["--target-cpu", "aarch64-dotprod", "--target-cpu", "x86-64-v2"];
    assert_eq!(levels(&mixed), "aarch64-dotprod x86-64-v2");
    let named_of_one = ["--target", &format!("{x86},{arm}"), "--target-cpu", "x86-64-v2"];
    assert_eq!(levels(&named_of_one), "aarch64 x86-64-v2");
    let (_, stderr) = expect(2, &["compile", &model, "--target", x86, "--target-cpu", "aarch64"]);
    assert!(
        stderr.contains("--target-cpu aarch64: expected --target to name aarch64-unknown-linux-gnu too"),
        "{stderr}"
    );
}

#[test]
fn a_limit_ends_rewriting_at_the_same_step_every_time() {
    let model = text(&tiny_lm());
    let dir = tempfile::tempdir().unwrap();
    let run = |limit: &str, name: &str| {
        let dump = text(&dir.path().join(name));
        let args = ["compile", &model, "--stop-after", "rewritten", "--dump-stages", &dump];
        let (_, stderr) = expect(0, &[args.as_slice(), &["--bisect-limit", limit]].concat());
        (stderr, fs::read_to_string(dir.path().join(name).join("forward.rewritten.ssm")).unwrap())
    };
    let (stderr, graph) = run("3", "a");
    assert!(stderr.contains("bisect: 3 steps taken, the last: pass fold"), "{stderr}");
    assert!(!graph.contains("ssm.selective_scan"));
    let (stderr, graph) = run("60", "b");
    assert!(stderr.contains("bisect: 60 steps taken, the last: rule "), "{stderr}");
    assert_eq!(run("60", "c"), (stderr, graph));
}

#[test]
fn a_trace_has_passes_with_times() {
    let dir = tempfile::tempdir().unwrap();
    let trace = text(&dir.path().join("trace.json"));
    let args = ["--quiet", "compile", &text(&tiny_lm()), "--stop-after", "rewritten", "--trace", &trace];
    let (stdout, stderr) = expect(0, &args);
    assert!(stdout.is_empty() && stderr.is_empty(), "{stdout}{stderr}");
    let trace: Value = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let track = |name: &str| {
        let named = events.iter().find(|e| e["ph"] == "M" && e["args"]["name"] == name).unwrap();
        named["tid"].clone()
    };
    let step = track("step");
    let of_step: Vec<_> = events.iter().filter(|e| e["ph"] == "X" && e["tid"] == step).collect();
    let names: Vec<_> = of_step.iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"scan-loop") && names.last() == Some(&"rewrite"), "{names:?}");
    let ends = |e: &Value| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap();
    assert!(of_step.windows(2).all(|pair| ends(pair[0]) <= pair[1]["ts"].as_f64().unwrap() + 0.01));
}

/// A program in the place of NVIDIA's assembler: its machine code is none.
#[cfg(unix)]
fn assembler(dir: &std::path::Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let program = dir.join("assembler");
    fs::write(&program, "#!/bin/sh\necho machine code for \"$1\" > \"$3\"\n")
        .expect("the folder can be written to");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    text(&program)
}

#[cfg(unix)]
#[test]
fn artefacts_for_gpus_carry_what_the_assembler_makes() {
    let dir = tempfile::tempdir().unwrap();
    let (model, artefact) = (text(&dir.path().join("m.onnx")), text(&dir.path().join("m.ssmc")));
    fs::write(&model, onnx()).unwrap();
    let assembler = assembler(dir.path());
    let compile = |ptxas: &str, code: i32| {
        expect(code, &["compile", &model, "--target", "cuda", "--ptxas", ptxas, "-o", &artefact]).1
    };
    let sizes = || {
        let found = json("ssmc.inspect.v1", &["inspect", &artefact]);
        let levels = found["levels"].as_array().expect("there are levels").clone();
        levels.iter().map(|level| level["cubin_bytes"].as_u64()).collect::<Vec<_>>()
    };
    compile("none", 0);
    assert_eq!(sizes(), [None, None]);
    compile(&assembler, 0);
    let expected = ["sm_80", "sm_90a"].map(|arch| format!("machine code for -arch={arch}\n").len() as u64);
    assert_eq!(sizes(), expected.map(Some));
    assert!(expect(0, &["inspect", &artefact]).0.contains("cubin of 30 B"));
    assert!(compile("/nowhere/ptxas", 2).contains("/nowhere/ptxas"));
}
