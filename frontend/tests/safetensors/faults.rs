//! Every kind of broken model folder is refused with its code, its file and its tensor or key.

use super::folders::{MAMBA, MAMBA2, Raw, edit_json, folder, tiny, write_parts};
use serde_json::{Value, json};
use ssmc_frontend::ImportError;
use ssmc_frontend::safetensors::synthetic::Mixer;
use ssmc_frontend::safetensors::{ImportOptions, import_dir};
use ssmc_ir::{Diagnostic, Model, Severity};
use std::fs;
use std::path::Path;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const A_LOG: &str = "backbone.layers.1.mixer.A_log";
const IN_PROJ: &str = "backbone.layers.0.mixer.in_proj.weight";

fn import(dir: &Path) -> Result<Model, ImportError> {
    import_dir(dir, &ImportOptions::default())
}

/// The errors of a tiny model of this mixer after an edit of its folder.
fn errors_of(mixer: Mixer, edit: impl FnOnce(&Path)) -> Vec<Diagnostic> {
    let dir = folder(&tiny(mixer));
    assert!(import(dir.path()).is_ok(), "the model is good before the edit");
    edit(dir.path());
    let error = import(dir.path()).expect_err("the edited model is refused");
    error.faults().iter().filter(|d| d.severity == Severity::Error).cloned().collect()
}

/// Exactly these errors, each with its code and words of its place or message, in any order.
fn check_all(mixer: Mixer, edit: impl FnOnce(&Path), expect: &[(&str, &[&str])]) {
    let errors = errors_of(mixer, edit);
    for (code, words) in expect {
        let code = format!("ssmc::import::{code}");
        let fits = |d: &&Diagnostic| d.code == code && words.iter().all(|w| d.to_string().contains(w));
        assert_eq!(errors.iter().filter(fits).count(), 1, "{code} {words:?} in {errors:#?}");
    }
    assert_eq!(errors.len(), expect.len(), "{errors:#?}");
}

fn check(edit: impl FnOnce(&Path), code: &str, words: &[&str]) {
    check_all(MAMBA, edit, &[(code, words)]);
}

fn check_raw(edit: impl FnOnce(&mut Raw), expect: &[(&str, &[&str])]) {
    let edit = |dir: &Path| {
        let mut raw = Raw::read(&dir.join(WEIGHTS));
        edit(&mut raw);
        raw.write(&dir.join(WEIGHTS));
    };
    check_all(MAMBA, edit, expect);
}

fn check_config(mixer: Mixer, edit: impl FnOnce(&mut Value), code: &str, words: &[&str]) {
    check_all(mixer, |dir| edit_json(&dir.join("config.json"), edit), &[(code, words)]);
}

#[test]
fn header_length() {
    let write = |bytes: &'static [u8]| move |dir: &Path| fs::write(dir.join(WEIGHTS), bytes).unwrap();
    check(write(b""), "truncated_header", &[WEIGHTS, "expected 8 bytes, found 0"]);
    check(write(b"1234567"), "truncated_header", &["expected 8 bytes, found 7"]);
    check(write(b"\x40\0\0\0\0\0\0\0{}"), "truncated_header", &["expected 72 bytes, found 10"]);
    check(write(b"\xff\xff\xff\xff\xff\xff\xff\xff{}"), "header_too_large", &["18446744073709551615"]);
}

#[test]
fn header_text() {
    let write = |header: &'static [u8]| move |dir: &Path| write_parts(&dir.join(WEIGHTS), header, b"");
    check(write(b"{\"a\": "), "header_not_json", &[WEIGHTS, "EOF"]);
    check(write(b"[1, 2]"), "header_not_json", &["expected an object"]);
    check(write(b"\xff\xfe"), "header_not_json", &[WEIGHTS]);
    let deep = [b'['; 100_000];
    check(
        |dir| write_parts(&dir.join(WEIGHTS), &[b"{\"a\":", &deep[..]].concat(), b""),
        "header_not_json",
        &["recursion"],
    );
}

#[test]
fn header_entries() {
    let entry = |field: &'static str, value: Value| move |raw: &mut Raw| raw.header[A_LOG][field] = value;
    check_raw(entry("dtype", json!("F31")), &[("unknown_dtype", &[A_LOG, "F31"])]);
    check_raw(entry("dtype", json!("F4")), &[("unsupported_dtype", &[A_LOG, "F4"])]);
    check_raw(entry("dtype", json!(32)), &[("bad_tensor_entry", &[A_LOG, "dtype", "32"])]);
    check_raw(entry("shape", json!([-1, 5])), &[("bad_tensor_entry", &[A_LOG, "shape", "[-1,5]"])]);
    check_raw(entry("shape", json!("12x5")), &[("bad_tensor_entry", &[A_LOG, "shape"])]);
    check_raw(entry("data_offsets", json!([0])), &[("bad_tensor_entry", &[A_LOG, "data_offsets"])]);
    check_raw(entry("stride", json!([5, 1])), &[("bad_tensor_entry", &[A_LOG, "stride"])]);
    check_raw(entry("data_offsets", json!([8, 4])), &[("offsets_reversed", &[A_LOG])]);
    check_raw(
        entry("shape", json!([12, 4])),
        &[("byte_length", &[A_LOG, "expected 192", "[12, 4]", "found 240"])],
    );
    let huge = json!([u64::MAX, u64::MAX]);
    check_raw(entry("shape", huge), &[("size_overflow", &[A_LOG])]);
    check_raw(|raw| raw.header[A_LOG] = json!([1]), &[("bad_tensor_entry", &[A_LOG, "object"])]);
}

#[test]
fn data_layout() {
    check_raw(
        |raw| raw.data.truncate(raw.data.len() - 4),
        &[("offsets_out_of_range", &["lm_head.weight", "bytes long"])],
    );
    check_raw(|raw| raw.data.extend([0; 3]), &[("gap_in_data", &["belong to no tensor"])]);
    check_raw(
        |raw| {
            let (_, bytes) = raw.remove(A_LOG);
            raw.data.extend([0; 8]);
            raw.add(A_LOG, "F32", &[12, 5], &bytes);
        },
        &[("gap_in_data", &[WEIGHTS])],
    );
    check_raw(
        |raw| {
            let (_, bytes) = raw.remove(A_LOG);
            raw.add(A_LOG, "F32", &[12, 5], &bytes[..236]);
            let end = raw.data.len();
            raw.header[A_LOG]["data_offsets"] = json!([end - 240, end]);
        },
        &[("overlapping_tensors", &[A_LOG, "lm_head.weight"])],
    );
}

#[test]
fn repeated_names_in_one_header() {
    check(
        |dir| {
            let raw = Raw::read(&dir.join(WEIGHTS));
            let mut text = serde_json::to_string(&raw.header).unwrap();
            let again = format!("{}:{},", json!(A_LOG), raw.header[A_LOG]);
            text.insert_str(1, &again);
            write_parts(&dir.join(WEIGHTS), text.as_bytes(), &raw.data);
        },
        "duplicate_tensor",
        &[A_LOG],
    );
}

#[test]
fn every_fault_of_a_file_at_once() {
    check_raw(
        |raw| {
            raw.header[A_LOG]["dtype"] = json!("F31");
            raw.header[IN_PROJ]["shape"] = json!([24]);
            raw.header["lm_head.weight"]["data_offsets"] = json!([9, 1]);
        },
        &[
            ("unknown_dtype", &[A_LOG]),
            ("byte_length", &[IN_PROJ]),
            ("offsets_reversed", &["lm_head.weight"]),
        ],
    );
}

/// Splits the file in two shards: layer 1 and the rest.
fn shard(dir: &Path) {
    let mut first = Raw::read(&dir.join(WEIGHTS));
    let mut second = Raw { header: serde_json::Map::new(), data: Vec::new() };
    let mut map = serde_json::Map::new();
    let names: Vec<String> = first.header.keys().filter(|k| !k.starts_with("__")).cloned().collect();
    for name in names {
        let shard = if name.contains("layers.1.") {
            let (entry, bytes) = first.remove(&name);
            let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
            second.add(&name, "F32", &shape, &bytes);
            "b.safetensors"
        } else {
            "a.safetensors"
        };
        map.insert(name, json!(shard));
    }
    first.write(&dir.join("a.safetensors"));
    second.write(&dir.join("b.safetensors"));
    fs::remove_file(dir.join(WEIGHTS)).unwrap();
    fs::write(dir.join(INDEX), json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
}

fn check_shards(edit: impl FnOnce(&Path), expect: &[(&str, &[&str])]) {
    let edit = |dir: &Path| {
        shard(dir);
        import(dir).expect("the sharded model is good before the edit");
        edit(dir);
    };
    check_all(MAMBA, edit, expect);
}

fn check_index(edit: impl FnOnce(&mut Value), expect: &[(&str, &[&str])]) {
    check_shards(|dir| edit_json(&dir.join(INDEX), |index| edit(&mut index["weight_map"])), expect);
}

#[test]
fn shards() {
    check_shards(
        |dir| fs::remove_file(dir.join("b.safetensors")).unwrap(),
        &[("missing_shard", &[INDEX, "b.safetensors", "10 tensors", A_LOG])],
    );
    check_index(
        |map| map["absent"] = json!("a.safetensors"),
        &[("tensor_not_in_shard", &[INDEX, "absent", "a.safetensors"])],
    );
    check_index(
        |map| map[A_LOG] = json!("a.safetensors"),
        &[(
            "tensor_in_other_shard",
            &[A_LOG, "expected in shard \"a.safetensors\"", "found in shard \"b.safetensors\""],
        )],
    );
    check_index(|map| map[A_LOG] = json!(3), &[("bad_index_entry", &[A_LOG, "3"])]);
    check_shards(
        |dir| {
            let mut raw = Raw::read(&dir.join("a.safetensors"));
            raw.add(A_LOG, "F32", &[12, 5], &[0; 240]);
            raw.write(&dir.join("a.safetensors"));
        },
        &[("duplicate_tensor", &[A_LOG, "a.safetensors", "b.safetensors"])],
    );
    check_shards(|dir| fs::write(dir.join(INDEX), "{").unwrap(), &[("not_json", &[INDEX])]);
    check_shards(
        |dir| fs::write(dir.join(INDEX), "{}").unwrap(),
        &[("bad_config_key", &[INDEX, "weight_map"])],
    );
}

#[test]
fn shards_stay_in_the_folder() {
    for outside in ["../b.safetensors", "/etc/passwd", "x/../../b", "", "..", "a\\b", "./../b"] {
        check_index(
            |map| map[A_LOG] = json!(outside),
            &[("shard_outside_folder", &[INDEX, &format!("{outside:?}")])],
        );
    }
}

#[test]
fn unlisted_tensors_are_a_warning() {
    let dir = folder(&tiny(MAMBA));
    shard(dir.path());
    edit_json(&dir.path().join(INDEX), |index| {
        index["weight_map"].as_object_mut().unwrap().remove(A_LOG);
    });
    let model = import(dir.path()).unwrap();
    let codes: Vec<_> = model.warnings.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["ssmc::import::tensor_not_in_index"]);
}

#[test]
fn folders_without_weights() {
    check(
        |dir| fs::rename(dir.join(WEIGHTS), dir.join("pytorch_model.bin")).unwrap(),
        "no_weights",
        &["model.safetensors.index.json", "found pytorch_model.bin"],
    );
    let dir = folder(&tiny(MAMBA));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    let error = import(dir.path()).unwrap_err();
    assert!(matches!(&error, ImportError::Io { path, .. } if path.ends_with("config.json")), "{error}");
    fs::create_dir(dir.path().join("config.json")).unwrap();
    assert!(matches!(import(dir.path()), Err(ImportError::Io { .. })));
}

#[test]
fn paths_that_are_no_model() {
    let options = ImportOptions::default();
    let dir = folder(&tiny(MAMBA));
    assert!(ssmc_frontend::import(dir.path(), &options).is_ok());
    let one_file = ssmc_frontend::import(&dir.path().join(WEIGHTS), &options);
    assert!(matches!(one_file, Err(ImportError::UnknownFormat { .. })), "{one_file:?}");
    let absent = ssmc_frontend::import(&dir.path().join("absent"), &options);
    assert!(matches!(absent, Err(ImportError::Io { .. })), "{absent:?}");
}

#[test]
fn config_values() {
    check(|dir| fs::write(dir.join("config.json"), "{").unwrap(), "not_json", &["config.json"]);
    check(|dir| fs::write(dir.join("config.json"), "[]").unwrap(), "not_json", &["config.json", "[]"]);
    let cases: [(Mixer, &str, Value, &str); 13] = [
        (MAMBA, "expand", json!(1e300), "bad_config_key"),
        (MAMBA, "hidden_size", json!("six"), "bad_config_key"),
        (MAMBA, "hidden_size", json!(0), "bad_config_key"),
        (MAMBA, "hidden_size", json!(1u64 << 40), "bad_config_key"),
        (MAMBA, "num_hidden_layers", json!(1_000_000_000), "bad_config_key"),
        (MAMBA, "layer_norm_epsilon", json!({ "__float__": "Infinity" }), "bad_config_key"),
        (MAMBA, "tie_word_embeddings", json!("yes"), "bad_config_key"),
        (MAMBA, "eos_token_id", json!(-1), "bad_config_key"),
        (MAMBA2, "time_step_limit", json!([1.0, 0.5]), "bad_config_key"),
        (MAMBA2, "n_groups", json!(3), "bad_config_key"),
        (MAMBA, "hidden_act", json!("gelu"), "unsupported_config"),
        (MAMBA, "model_type", json!("gpt2"), "unsupported_config"),
        (MAMBA, "quantization_config", json!({ "bits": 4 }), "unsupported_config"),
    ];
    for (mixer, key, value, code) in cases {
        check_config(mixer, |config| config[key] = value, code, &["config.json", key]);
    }
}

#[test]
fn unsupported_is_told_from_invalid() {
    let dir = folder(&tiny(MAMBA));
    edit_json(&dir.path().join("config.json"), |config| config["hidden_act"] = json!("gelu"));
    assert!(matches!(import(dir.path()), Err(ImportError::Unsupported { .. })));
    edit_json(&dir.path().join("config.json"), |config| config["hidden_size"] = json!("six"));
    assert!(matches!(import(dir.path()), Err(ImportError::Invalid { .. })));
}

#[test]
fn missing_misshapen_and_unexpected_tensors_at_once() {
    check_raw(
        |raw| {
            raw.remove(A_LOG);
            raw.remove(IN_PROJ);
            raw.add(IN_PROJ, "F32", &[6, 24], &[0; 576]);
            raw.add("backbone.layers.0.mixer.extra", "F32", &[2], &[0; 8]);
            raw.remove("backbone.norm_f.weight");
            raw.add("backbone.norm_f.weight", "I32", &[6], &[0; 24]);
        },
        &[
            ("missing_tensor", &[A_LOG, "[12, 5]"]),
            ("tensor_shape", &[IN_PROJ, "expected shape [24, 6]", "found [6, 24]"]),
            ("unexpected_tensor", &["backbone.layers.0.mixer.extra", "[2]"]),
            ("unsupported_weight_dtype", &["backbone.norm_f.weight", "i32"]),
        ],
    );
}

/// A tensor without elements may have any extents; they must not take part in arithmetic.
#[test]
fn huge_extents_of_empty_tensors() {
    let huge = [1usize << 61, 0];
    let a_logs = ["backbone.layers.0.mixer.A_log", A_LOG];
    let edit = |raw: &mut Raw| {
        for name in a_logs {
            raw.remove(name);
            raw.add(name, "F32", &huge, &[]);
        }
    };
    let found = format!("found {huge:?}");
    let words = a_logs.map(|name| [name, "expected shape [12, 5]", found.as_str()]);
    check_raw(edit, &[("tensor_shape", &words[0]), ("tensor_shape", &words[1])]);
}

#[test]
fn a_layer_too_few_or_too_many() {
    check_config(
        MAMBA,
        |config| config["num_hidden_layers"] = json!(200),
        "bad_config_key",
        &["num_hidden_layers", "200"],
    );
    let set_layers = |n: usize| {
        move |dir: &Path| edit_json(&dir.join("config.json"), |config| config["num_hidden_layers"] = json!(n))
    };
    let too_few = errors_of(MAMBA, set_layers(1));
    assert_eq!(too_few.len(), 10);
    assert!(too_few.iter().all(|d| d.code.ends_with("unexpected_tensor") && d.message.contains("layers.1.")));
    let too_many = errors_of(MAMBA2, set_layers(3));
    assert_eq!(too_many.len(), 9);
    assert!(too_many.iter().all(|d| d.code.ends_with("missing_tensor") && d.message.contains("layers.2.")));
}

#[test]
fn unexpected_tensors_can_be_ignored() {
    let dir = folder(&tiny(MAMBA));
    let mut raw = Raw::read(&dir.path().join(WEIGHTS));
    raw.add("mtp.weight", "F32", &[2], &[0; 8]);
    raw.write(&dir.path().join(WEIGHTS));
    let model = import_dir(
        dir.path(),
        &ImportOptions { ignore_unexpected_tensors: true, ..ImportOptions::default() },
    )
    .unwrap();
    let warnings: Vec<_> = model.warnings.iter().map(|d| (d.severity, d.code)).collect();
    assert_eq!(warnings, [(Severity::Warning, "ssmc::import::ignored_tensor")]);
    assert!(model.weights.get("mtp.weight").is_none());
}

#[test]
fn tensors_decide_where_the_config_disagrees() {
    let dir = folder(&tiny(MAMBA));
    edit_json(&dir.path().join("config.json"), |config| {
        config["state_size"] = json!(16);
        config["intermediate_size"] = json!(96);
        config["expand"] = json!(16);
        config["time_step_rank"] = json!("auto");
    });
    let model = import(dir.path()).unwrap();
    let warnings: Vec<_> = model.warnings.iter().map(|d| (d.code, d.message.as_str())).collect();
    let code = "ssmc::import::config_disagrees";
    assert_eq!(
        warnings,
        [
            (
                code,
                "key \"intermediate_size\": expected 12, which the tensors say and which is used, found 96"
            ),
            (code, "key \"state_size\": expected 5, which the tensors say and which is used, found 16"),
        ]
    );
    let state = model.graph.input("layers.0.ssm_state").unwrap();
    assert_eq!(model.graph.ty(state).to_string(), "f32[batch, 12, 5]");
}

#[test]
fn a_stored_head_that_differs_from_its_tie_is_a_warning() {
    let dir = folder(&tiny(MAMBA));
    edit_json(&dir.path().join("config.json"), |config| config["tie_word_embeddings"] = json!(true));
    let model = import(dir.path()).unwrap();
    let codes: Vec<_> = model.warnings.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["ssmc::import::tied_tensor_differs"]);
    assert!(model.weights.get("lm_head.weight").is_none());
}

#[test]
fn infinities_of_both_spellings() {
    for limit in ["[0.0, Infinity]", "[-Infinity, {\"__float__\": \"Infinity\"}]", "[0.0, 1e30]"] {
        let dir = folder(&tiny(MAMBA2));
        let file = dir.path().join("config.json");
        edit_json(&file, |config| config["time_step_limit"] = json!("LIMIT"));
        let text = fs::read_to_string(&file).unwrap().replace("\"LIMIT\"", limit);
        fs::write(&file, text).unwrap();
        let clamps = import(dir.path()).unwrap().graph.nodes().filter(|(_, n)| n.op.name() == "min").count();
        assert_eq!(clamps, if limit.contains("1e30") { 2 } else { 0 }, "{limit}");
    }
}

/// The first bytes of the config, of an index and of a header damaged in turn: the import ends, mostly in a refusal.
#[test]
fn damaged_bytes_never_panic() {
    const N_BYTES: usize = 500;
    let dir = folder(&tiny(MAMBA2));
    shard(dir.path());
    for file in ["config.json", INDEX, "b.safetensors"] {
        let path = dir.path().join(file);
        let good = fs::read(&path).unwrap();
        let mut refused = 0;
        for at in 0..N_BYTES {
            let mut bad = good.clone();
            bad[at] ^= if at % 2 == 0 { 0x01 } else { 0x80 };
            fs::write(&path, &bad).unwrap();
            refused += usize::from(import(dir.path()).is_err());
        }
        assert!(refused > N_BYTES / 2, "{file}: {refused} refused");
        fs::write(&path, good).unwrap();
    }
    import(dir.path()).expect("the model is good again");
}
