//! Arguments and bad inputs: exit codes and messages.

mod common;

use common::{expect, json, tiny_lm};
use std::fs;

#[test]
fn help_names_every_verb() {
    let (help, _) = expect(0, &["--help"]);
    insta::assert_snapshot!(help);
}

#[test]
fn usage_errors_exit_with_2() {
    let model = tiny_lm();
    let model = model.to_str().unwrap();
    expect(2, &["no-such-verb"]);
    expect(2, &["compile"]);
    expect(2, &["compile", model, "--stop-after", "nowhere"]);
    expect(2, &["generate", model, "--top-p", "1.5"]);
    expect(2, &["snapshot", model, "--dir", "x"]);
    let (_, stderr) = expect(2, &["compile", model, "--target-cpu", "x86-64-v9"]);
    assert!(stderr.contains("x86-64-v9") && stderr.contains("x86-64-v4"), "{stderr}");
    let (_, stderr) = expect(2, &["compile", model, "--target-cpu", "sm_80"]);
    assert!(stderr.contains("GPU"), "{stderr}");
}

#[test]
fn faulty_files_exit_with_6() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (name, bytes) in [
        ("text.onnx", b"this is no model".as_slice()),
        ("short.ssmc", b"\x89SSMC\r\n\x1a"),
        ("empty.ssmc", b""),
        ("model.gguf", b"GGUF"),
        ("state.bin", b"\x89SSMS\r\n\x1a"),
    ] {
        fs::write(path(name), bytes).unwrap();
    }
    for name in ["missing.onnx", "text.onnx", "short.ssmc", "empty.ssmc", "model.gguf"] {
        let (stdout, stderr) = expect(6, &["check", &path(name)]);
        assert!(stdout.is_empty() && stderr.contains(name), "{name}: {stdout}{stderr}");
    }
    expect(6, &["state", "inspect", &path("state.bin")]);
    expect(6, &["selftest", &path("text.onnx")]);
    fs::create_dir(path("folder")).unwrap();
    expect(6, &["compile", &path("folder"), "-o", &path("out.ssmc")]);
    assert!(!dir.path().join("out.ssmc").exists());
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).expect("the messages are short")], bytes].concat()
}

/// An ONNX model of one node `y = op(x)`.
fn onnx(op: &str) -> Vec<u8> {
    let float_of_2 = field(1, &[&[8, 1], field(2, &field(1, &[8, 2])).as_slice()].concat());
    let port = |name: &str| [field(1, name.as_bytes()), field(2, &float_of_2)].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(3, b"odd_one"), field(4, op.as_bytes())].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &port("x")), field(12, &port("y"))].concat();
    [vec![8, 8], field(7, &graph), field(8, &[16, 17])].concat()
}

#[test]
fn unsupported_models_exit_with_3_and_name_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    fs::write(&path, onnx("Exp")).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(json("ssmc.check.v1", &["check", path])["valid"], true);
    fs::write(path, onnx("NoSuchOp")).unwrap();
    let (_, stderr) = expect(3, &["check", path]);
    assert!(stderr.contains("odd_one") && stderr.contains("NoSuchOp"), "{stderr}");
    let (stdout, _) = expect(3, &["--json", "check", path]);
    let error: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&error["schema"], &error["exit_code"]), (&"ssmc.error.v1".into(), &3.into()));
    assert_eq!(error["faults"][0]["code"], "ssmc::import::unsupported_op");
}

#[test]
fn targets_and_completions_are_listed() {
    let targets = json("ssmc.targets.v1", &["targets"]);
    assert_eq!(targets["cpu"][1]["name"], "x86-64-v3");
    let (script, _) = expect(0, &["completions", "bash"]);
    assert!(script.contains("snapshot"));
}
