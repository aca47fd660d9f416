//! The verbs on a real language model, end to end.
#![cfg(feature = "llvm")]

mod common;

use common::{expect, json, text, tiny_lm};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use tempfile::TempDir;

const PROMPT: &str = "To create a new table,";

/// The first greedy tokens that `reference_greedy.npz` records for the prompt.
fn reference_tokens() -> Vec<i64> {
    let arrays = ssmc_npz::read(&tiny_lm().join("reference_greedy.npz")).expect("the reference is there");
    arrays["tokens"].to_f64().iter().map(|x| *x as i64).collect()
}

struct Compiled {
    dir: TempDir,
    artifact: String,
}

impl Compiled {
    fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }
}

/// The artefact for this machine, compiled once for all tests.
fn compiled() -> &'static Compiled {
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let dir = tempfile::tempdir().expect("there is room for a folder");
        let artifact = text(&dir.path().join("tiny-lm.ssmc"));
        let args = ["compile", &text(&tiny_lm()), "-o", &artifact, "--target-cpu", "native"];
        let summary = json("ssmc.compile.v1", &args);
        assert_eq!(summary["name"], "tiny-lm");
        Compiled { dir, artifact }
    })
}

#[test]
fn an_artefact_says_what_it_is() {
    let c = compiled();
    let found = json("ssmc.inspect.v1", &["inspect", &c.artifact]);
    assert_eq!(found["properties"]["family"], "mamba");
    assert_eq!(found["properties"]["eos_token_ids"], "0");
    assert_eq!(found["properties"]["n_parameters"], "4990976");
    assert_eq!(found["model_hash"].as_str().unwrap().len(), 64);
    let program = |name: &str| {
        found["programs"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap().clone()
    };
    assert_eq!(program("forward")["recurrences"]["s6"], 9);
    let steps = program("step")["recurrences"].as_object().unwrap().clone();
    assert!(steps.keys().all(|class| class == "step_s6"), "{steps:?}");
    assert_eq!(steps.values().filter_map(|n| n.as_u64()).sum::<u64>(), 9);
    assert_eq!(program("prefill")["generic_loops"], 0);
    assert_eq!(found["states"].as_array().unwrap().len(), 18);
    assert_eq!(found["states"][1]["bytes_per_sequence"], 512 * 16 * 4);
    expect(0, &["check", &c.artifact]);
}

#[test]
fn golden_vectors_hold() {
    let c = compiled();
    let found = json("ssmc.selftest.v1", &["selftest", &c.artifact]);
    let programs: Vec<_> =
        found["outputs"].as_array().unwrap().iter().map(|o| o["program"].clone()).collect();
    assert_eq!(programs, ["forward", "prefill", "step"]);
}

#[test]
fn stages_and_code_are_written_on_request() {
    let c = compiled();
    let (model, artifact, dump) = (tiny_lm(), c.path("emit/lm.ssmc"), c.path("dump"));
    let model = model.to_str().unwrap();
    expect(0, &["compile", model, "--stop-after", "raised", "--dump-stages", &dump]);
    let dumped = |name: &str| c.dir.path().join("dump").join(name).exists();
    assert!(dumped("forward.imported.ssm") && dumped("step.raised.ssm") && !dumped("step.rewritten.ssm"));
    fs::create_dir(c.path("emit")).unwrap();
    // Without rewriting nothing is fused, and the numbers are the same.
    let args = ["compile", model, "-o", &artifact, "-O0", "--emit", "ir,llvm-ir,asm,obj"];
    expect(0, &[args.as_slice(), &["--target-cpu", "x86-64-v3"]].concat());
    for name in ["lm.forward.ssm", "lm.x86-64-v3.ll", "lm.x86-64-v3.s", "lm.x86-64-v3.o"] {
        assert!(fs::metadata(c.dir.path().join("emit").join(name)).unwrap().len() > 1000, "{name}");
    }
    let ir = fs::read_to_string(c.path("emit/lm.forward.ssm")).unwrap();
    assert!(ir.contains("ssm.scan") && !ir.contains("ssm.selective_scan"));
    expect(0, &["selftest", &artifact]);
}

#[test]
fn an_artefact_without_golden_vectors_cannot_test_itself() {
    let c = compiled();
    let artifact = c.path("plain.ssmc");
    let model = tiny_lm();
    let args =
        ["compile", model.to_str().unwrap(), "-o", &artifact, "--no-golden", "--target-cpu", "x86-64-v3"];
    expect(0, &args);
    let (_, stderr) = expect(1, &["selftest", &artifact]);
    assert!(stderr.contains("golden"), "{stderr}");
}

#[test]
fn corrupt_artefacts_are_refused() {
    let c = compiled();
    let bytes = fs::read(&c.artifact).unwrap();
    let (cut, flipped) = (c.path("cut.ssmc"), c.path("flipped.ssmc"));
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    expect(6, &["check", &cut]);
    let mut other = bytes;
    // The last byte that is not padding belongs to a checked section.
    let last = other.iter().rposition(|byte| *byte != 0).unwrap();
    other[last] ^= 1;
    fs::write(&flipped, &other).unwrap();
    expect(6, &["check", &flipped]);
}

#[test]
fn greedy_tokens_are_those_of_the_reference() {
    let c = compiled();
    let tokenizer = tiny_lm().join("tokenizer.json");
    let tokenizer = tokenizer.to_str().unwrap();
    let args = [
        "generate",
        &c.artifact,
        "--tokenizer",
        tokenizer,
        "--bos",
        "0",
        "--prompt",
        PROMPT,
        "--max-tokens",
        "8",
    ];
    let found = json("ssmc.generate.v1", &args);
    let tokens: Vec<i64> = found["tokens"].as_array().unwrap().iter().map(|t| t.as_i64().unwrap()).collect();
    assert_eq!(tokens, reference_tokens()[..8]);
    let (shown, stderr) = expect(0, &args);
    assert_eq!(shown.trim_end_matches('\n'), found["text"].as_str().unwrap().trim_end_matches('\n'));
    assert!(stderr.contains("tokens/s"), "{stderr}");
    let sampled = |seed: &str| {
        let more = ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.95", "--seed", seed];
        json("ssmc.generate.v1", &[args.as_slice(), &more].concat())["tokens"].clone()
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

#[test]
fn generation_refuses_what_it_cannot_start_from() {
    let c = compiled();
    expect(2, &["generate", &c.artifact, "--prompt", PROMPT]);
    expect(2, &["generate", &c.artifact]);
    let (_, stderr) = expect(6, &["generate", &c.artifact, "--prompt-ids", "1,99999"]);
    assert!(stderr.contains("99999") && stderr.contains("4095"), "{stderr}");
    expect(6, &["generate", &c.artifact, "--prompt", "x", "--tokenizer", &c.artifact]);
}

#[test]
fn programs_run_on_npz_files() {
    let c = compiled();
    let reference = ssmc_npz::read(&tiny_lm().join("reference_logits.npz")).unwrap();
    let (inputs, outputs) = (c.path("inputs.npz"), c.path("outputs.npz"));
    ssmc_npz::write(inputs.as_ref(), [("input_ids", &reference["input_ids"])]).unwrap();
    expect(0, &["run", &c.artifact, "--inputs", &inputs, "--outputs", &outputs]);
    let found = ssmc_npz::read(outputs.as_ref()).unwrap()["logits"].clone();
    let expected = &reference["logits"];
    assert_eq!(found.shape, expected.shape);
    let peak = expected.to_f64().iter().fold(0f64, |m, x| m.max(x.abs()));
    let worst = found.to_f64().iter().zip(expected.to_f64()).fold(0f64, |m, (x, y)| m.max((x - y).abs()));
    assert!(worst <= 1e-4 * peak, "{worst} of {peak}");
    expect(2, &["run", &c.artifact, "--inputs", &inputs, "--outputs", &outputs, "--program", "none"]);
    let wrong = c.path("wrong.npz");
    ssmc_npz::write(wrong.as_ref(), [("ids", &reference["input_ids"])]).unwrap();
    let (_, stderr) = expect(6, &["run", &c.artifact, "--inputs", &wrong, "--outputs", &outputs]);
    assert!(stderr.contains("input_ids"), "{stderr}");
}

#[test]
fn a_saved_state_continues() {
    let c = compiled();
    let (first, both, second) = (c.path("first.state"), c.path("both.state"), c.path("second.state"));
    expect(0, &["state", "save", &c.artifact, "--prompt-ids", "0,5,7", "-o", &first]);
    expect(0, &["state", "save", &c.artifact, "--prompt-ids", "9", "--from", &first, "-o", &second]);
    expect(0, &["state", "save", &c.artifact, "--prompt-ids", "0,5,7,9", "-o", &both]);
    let found = json("ssmc.state.v1", &["state", "inspect", &second]);
    assert_eq!((&found["position"], &found["batch"]), (&4.into(), &1.into()));
    let whole = json("ssmc.state.v1", &["state", "inspect", &both]);
    assert_eq!(found["model_hash"], whole["model_hash"]);
    assert_eq!(found["states"].as_array().unwrap().len(), 18);
}

#[test]
fn compiled_code_agrees_with_interpreter_and_reference() {
    let model = tiny_lm();
    let model = model.to_str().unwrap();
    let native = ["--target-cpu", "native"];
    let args = ["verify", model, "--len", "4", "--per-layer"];
    let found = json("ssmc.verify.v1", &[args.as_slice(), &native].concat());
    let programs: Vec<&str> =
        found["outputs"].as_array().unwrap().iter().map(|o| o["program"].as_str().unwrap()).collect();
    for program in ["forward", "prefill", "step"] {
        assert!(programs.contains(&program), "{programs:?}");
    }
    assert!(found["layers"].as_array().unwrap().len() > 50);
    let reference = tiny_lm().join("reference_logits.npz");
    let args = ["verify", model, "--reference", reference.to_str().unwrap()];
    expect(0, &[args.as_slice(), &native].concat());
    // No f32 result is exact: the check must be able to fail.
    let (_, stderr) = expect(1, &[args.as_slice(), &native, &["--rtol", "0"]].concat());
    assert!(stderr.contains("launch"), "{stderr}");
}

#[test]
fn a_profile_lists_every_launch_beside_the_machines_limits() {
    let c = compiled();
    let trace = c.path("profile.json");
    let args = ["--len", "37", "--repetitions", "2", "--launches", "--trace", &trace];
    let found = json("ssmc.profile.v1", &[&["profile", &c.artifact], &args[..]].concat());
    assert!(found["machine"]["bytes_per_second"].as_f64().unwrap() > 1e8);
    let programs = found["programs"].as_array().unwrap();
    assert_eq!(
        programs.iter().map(|p| p["program"].as_str().unwrap()).collect::<Vec<_>>(),
        ["prefill", "step"]
    );
    for program in programs {
        let launches = program["by_launch"].as_array().unwrap();
        assert_eq!(program["launches"].as_u64().unwrap() as usize, launches.len());
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let sum = |key: &str| launches.iter().map(|l| number(&l[key])).sum::<f64>();
        assert!(number(&program["flops"]) > 5e6 && number(&program["flops"]) == sum("flops"), "{program}");
        assert!((number(&program["floor_seconds"]) / sum("floor_seconds") - 1.0).abs() < 1e-9);
        let scans = launches.iter().filter(|l| l["recurrence"].as_str().unwrap().ends_with("s6")).count();
        assert_eq!(scans, 9);
        assert!(launches.iter().all(|l| !l["nodes"].as_array().unwrap().is_empty()));
    }
    let events: serde_json::Value = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
    assert!(events["traceEvents"].as_array().unwrap().len() > programs.len());
    let (table, _) = expect(0, &["profile", &c.artifact, "--program", "step", "--repetitions", "1"]);
    assert!(table.contains("of its limit") && !table.contains("prefill"), "{table}");
    expect(6, &["profile", &c.artifact, "--program", "backward"]);
}

#[test]
fn launches_that_are_alternatives_count_one_recurrence() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = text(&dir.path().join("gpu.ssmc"));
    json("ssmc.compile.v1", &["compile", &text(&tiny_lm()), "-o", &artifact, "--target", "cuda"]);
    let found = json("ssmc.inspect.v1", &["inspect", &artifact]);
    let forward = found["programs"].as_array().unwrap().iter().find(|p| p["name"] == "forward").unwrap();
    assert_eq!(forward["recurrences"]["s6"], 9, "{forward}");
}

#[test]
fn snapshots_tell_of_changes() {
    let model = tiny_lm();
    let model = model.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let args = |mode: &'static str| ["snapshot", model, "--dir", folder, mode, "--target-cpu", "x86-64-v3"];
    expect(0, &args("--write"));
    expect(0, &args("--check"));
    let file: PathBuf = dir.path().join("step.rewritten.ssm");
    let stage = fs::read_to_string(&file).unwrap();
    fs::write(&file, stage.replacen("ssm.", "xxx.", 1)).unwrap();
    let (diff, stderr) = expect(1, &args("--check"));
    assert!(diff.contains("step.rewritten.ssm") && diff.contains("-") && diff.contains("xxx."), "{diff}");
    assert!(stderr.contains("1 files differ"), "{stderr}");
}

#[test]
fn explanations_name_the_rules() {
    let model = tiny_lm();
    let found = json("ssmc.explain.v1", &["explain", model.to_str().unwrap(), "--check"]);
    let explanations = found["explanations"].as_array().unwrap();
    assert!(
        explanations.iter().any(|e| e["fused"].as_array().unwrap().contains(&"ssm.selective_scan".into()))
    );
    assert!(explanations.iter().all(|e| e["replay"]["passed"] == true));
    assert_eq!(found["scans"].as_array().unwrap().len(), 9);
}
