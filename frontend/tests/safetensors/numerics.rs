//! Model folders evaluated by the reference interpreter.

use super::corpus::{CASES, corpus, import};
use super::folders::{FALCON_MAMBA, MAMBA, MAMBA2, Raw, edit_json, folder, tiny};
use super::npz;
use super::reference::Mamba2;
use serde_json::{Value, json};
use ssmc_frontend::safetensors::synthetic::Mixer;
use ssmc_ir::interp::Interpreter;
use ssmc_ir::tensor::Tensor;
use ssmc_ir::{Bindings, DType, Model, Symbol};
use std::collections::BTreeMap;

type Values = BTreeMap<String, Tensor>;

/// All outputs for these tokens, in exact arithmetic. States that are not given are zero.
fn run(model: &Model, ids: &Tensor, seq_idx: &[i64], states: &Values) -> Values {
    let &[batch, seq_len] = ids.shape() else { panic!("ids have a batch and a sequence axis") };
    let sizes = [("batch", batch as i64), ("seq_len", seq_len as i64)];
    let bindings: Bindings = sizes.into_iter().map(|(name, n)| (Symbol::new(name), n)).collect();
    let mut inputs = Values::new();
    for port in model.graph.inputs() {
        let ty = model.graph.ty(port.value);
        let shape: Vec<usize> = ty.shape.iter().map(|d| d.eval(&bindings).unwrap() as usize).collect();
        let value = match port.name.as_str() {
            "input_ids" => ids.clone(),
            "seq_idx" => Tensor::ints(DType::I32, shape, seq_idx.repeat(batch)).unwrap(),
            state => states.get(state).cloned().unwrap_or_else(|| Tensor::zeros(ty.dtype, shape).unwrap()),
        };
        inputs.insert(port.name.clone(), value);
    }
    Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap()
}

/// One sequence from zero states.
fn forward(model: &Model, ids: &Tensor) -> Values {
    run(model, ids, &vec![0; ids.shape()[1]], &Values::new())
}

fn row(ids: &[i64]) -> Tensor {
    Tensor::ints(DType::I64, [1, ids.len()], ids.to_vec()).unwrap()
}

fn logits(values: &Values) -> Vec<f64> {
    values["logits"].to_f64()
}

/// max|found - expected| / max|expected|
fn deviation(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let peak = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    assert!(peak > 0.0);
    assert!(found.iter().all(|x| x.is_finite()));
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
    worst / peak
}

fn assert_close(found: &[f64], expected: &[f64], limit: f64, what: &str) {
    let deviation = deviation(found, expected);
    assert!(deviation < limit, "{what}: {deviation:e}");
}

/// A model of random weights with its config edited.
fn random(mixer: Mixer, edit: impl FnOnce(&mut Value)) -> Model {
    let dir = folder(&tiny(mixer));
    edit_json(&dir.path().join("config.json"), edit);
    import(dir.path())
}

#[test]
fn corpus_logits_equal_the_reference() {
    let Some(corpus) = corpus() else { return };
    for case in &CASES {
        let dir = corpus.join(case.name);
        let model = import(&dir);
        for set in 0..2 {
            let ids = &npz::read(&dir.join(format!("inputs_{set}.npz")))["input_ids"];
            let reference = &npz::read(&dir.join(format!("outputs_{set}.npz")))["logits"];
            let outputs = forward(&model, ids);
            assert_eq!(outputs["logits"].shape(), reference.shape(), "{} {set}", case.name);
            let what = format!("{} {set}", case.name);
            assert_close(&logits(&outputs), &reference.to_f64(), 1e-6, &what);
        }
    }
}

const TOKENS: [i64; 11] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 16];
const MIXERS: [Mixer; 3] = [MAMBA, FALCON_MAMBA, MAMBA2];

#[test]
fn pieces_through_the_states_equal_one_piece() {
    for mixer in MIXERS {
        let model = random(mixer, |_| {});
        let whole = forward(&model, &row(&TOKENS));
        for cut in [1, 2, 5, 10] {
            let first = forward(&model, &row(&TOKENS[..cut]));
            let second = run(&model, &row(&TOKENS[cut..]), &vec![0; TOKENS.len() - cut], &first);
            let pieces = [logits(&first), logits(&second)].concat();
            assert_close(&pieces, &logits(&whole), 1e-12, &format!("{mixer:?} cut at {cut}"));
            for (name, state) in whole.iter().filter(|(name, _)| name.contains("state")) {
                assert_close(&second[name].to_f64(), &state.to_f64(), 1e-12, &format!("{mixer:?} {name}"));
            }
        }
    }
}

#[test]
fn the_states_matter() {
    for mixer in MIXERS {
        let model = random(mixer, |_| {});
        let (whole, rest) = (forward(&model, &row(&TOKENS)), forward(&model, &row(&TOKENS[5..])));
        let expected = &logits(&whole)[5 * 17..];
        assert!(deviation(&logits(&rest), expected) > 1e-4, "{mixer:?}");
    }
}

#[test]
fn packed_sequences_equal_separate_ones() {
    for mixer in MIXERS {
        let model = random(mixer, |_| {});
        let seq_idx = [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2];
        let packed = run(&model, &row(&TOKENS), &seq_idx, &Values::new());
        let parts = [&TOKENS[..4], &TOKENS[4..5], &TOKENS[5..]];
        let separate: Vec<f64> = parts.iter().flat_map(|ids| logits(&forward(&model, &row(ids)))).collect();
        assert_close(&logits(&packed), &separate, 1e-12, &format!("{mixer:?}"));
    }
}

#[test]
fn last_logits_are_the_logits_of_the_last_token() {
    for mixer in MIXERS {
        let model = random(mixer, |_| {});
        let outputs = forward(&model, &row(&TOKENS));
        let all = logits(&outputs);
        assert_close(&outputs["logits_last"].to_f64(), &all[all.len() - 17..], 1e-15, &format!("{mixer:?}"));
    }
}

/// A limit that softplus never reaches changes nothing; one that it exceeds everywhere does.
#[test]
fn step_size_limits_clamp() {
    let with = |limit: Value| {
        let model = random(MAMBA2, |config| config["time_step_limit"] = limit);
        logits(&forward(&model, &row(&TOKENS)))
    };
    let free = with(json!([0.0, "Infinity"]));
    assert_close(&with(json!([1e-9, 1e9])), &free, 1e-15, "far limits");
    assert!(deviation(&with(json!([5.0, "Infinity"])), &free) > 1e-3);
    assert!(deviation(&with(json!([0.0, 1e-5])), &free) > 1e-6);
}

/// The config of a folder of `transformers` in the words of state-spaces.
fn as_original(config: &mut Value, arguments: Value) {
    let tied = config["tie_word_embeddings"].clone();
    *config = json!({
        "d_model": config["hidden_size"],
        "n_layer": config["num_hidden_layers"],
        "vocab_size": config["vocab_size"],
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": tied,
        "rms_norm": true,
        "ssm_cfg": arguments,
    });
}

/// A tiny model under the names of state-spaces, its tensors changed and then imported.
fn original(mixer: Mixer, arguments: Value, edit: impl FnOnce(&mut Raw)) -> Model {
    let dir = folder(&tiny(mixer));
    edit_json(&dir.path().join("config.json"), |config| as_original(config, arguments));
    let file = dir.path().join("model.safetensors");
    let mut raw = Raw::read(&file);
    raw.rename("backbone.embeddings.weight", "backbone.embedding.weight");
    edit(&mut raw);
    raw.write(&file);
    let model = import(dir.path());
    assert_eq!(model.meta.family, "mamba_ssm");
    assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    model
}

#[test]
fn original_names_mean_the_same() {
    for (mixer, arguments) in [
        (MAMBA, json!({ "d_state": 5, "dt_rank": 3 })),
        (MAMBA, json!({ "layer": "Mamba1", "d_state": 5, "dt_rank": 3 })),
        (MAMBA2, json!({ "layer": "Mamba2", "d_state": 5, "headdim": 3, "ngroups": 2 })),
    ] {
        let ours = logits(&forward(&original(mixer, arguments, |_| {}), &row(&TOKENS)));
        let theirs = logits(&forward(&random(mixer, |_| {}), &row(&TOKENS)));
        assert_close(&ours, &theirs, 1e-15, &format!("{mixer:?}"));
    }
}

const PLAIN: Mamba2 = Mamba2 { n_groups: 2, d_state: 5, rms_norm: true, norm_before_gate: false };

fn check_mamba2(model: &Model, expect: Mamba2, embedding: &str, what: &str) {
    let expected = expect.logits(model, embedding, "lm_head.weight", 2, &TOKENS);
    assert_close(&logits(&forward(model, &row(&TOKENS))), &expected, 1e-12, what);
}

#[test]
fn mamba2_equals_its_loops() {
    let embedding = "backbone.embeddings.weight";
    check_mamba2(&random(MAMBA2, |_| {}), PLAIN, embedding, "two groups");
    // The same tensors read as 1 group of 10 states.
    let one = random(MAMBA2, |config| {
        config["n_groups"] = json!(1);
        config["state_size"] = json!(10);
    });
    check_mamba2(&one, Mamba2 { n_groups: 1, d_state: 10, ..PLAIN }, embedding, "one group");
}

#[test]
fn mamba2_variants_of_state_spaces_equal_their_loops() {
    let arguments = |key: &str, value: Value| {
        let mut all = json!({ "layer": "Mamba2", "d_state": 5, "headdim": 3, "ngroups": 2 });
        all[key] = value;
        all
    };
    let embedding = "backbone.embedding.weight";
    let layers = ["backbone.layers.0.mixer", "backbone.layers.1.mixer"];

    let before = original(MAMBA2, arguments("norm_before_gate", json!(true)), |_| {});
    check_mamba2(&before, Mamba2 { norm_before_gate: true, ..PLAIN }, embedding, "norm before gate");

    let bare = original(MAMBA2, arguments("rmsnorm", json!(false)), |raw| {
        for layer in layers {
            raw.remove(&format!("{layer}.norm.weight"));
        }
    });
    check_mamba2(&bare, Mamba2 { rms_norm: false, ..PLAIN }, embedding, "no norm");

    let numbers =
        |n: usize| -> Vec<u8> { (0..n).flat_map(|i| (0.3 + i as f32 * 0.1).to_le_bytes()).collect() };
    let wide = original(MAMBA2, arguments("D_has_hdim", json!(true)), |raw| {
        for layer in layers {
            raw.remove(&format!("{layer}.D"));
            raw.add(&format!("{layer}.D"), "F32", &[12], &numbers(12));
        }
    });
    check_mamba2(&wide, PLAIN, embedding, "a skip weight per channel");

    let biased = original(MAMBA2, arguments("bias", json!(true)), |raw| {
        for layer in layers {
            raw.add(&format!("{layer}.in_proj.bias"), "F32", &[48], &numbers(48));
            raw.add(&format!("{layer}.out_proj.bias"), "F32", &[6], &numbers(6));
        }
    });
    check_mamba2(&biased, PLAIN, embedding, "projections with bias");

    let unbiased = original(MAMBA2, arguments("conv_bias", json!(false)), |raw| {
        for layer in layers {
            raw.remove(&format!("{layer}.conv1d.bias"));
        }
    });
    check_mamba2(&unbiased, PLAIN, embedding, "convolution without bias");
}
