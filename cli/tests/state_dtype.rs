//! States that are kept in halves between calls.
#![cfg(feature = "llvm")]

mod common;

use common::{expect, json, text, tiny_lm};
use ssmc::runtime::{Artifact, DType, Session, SessionOptions, State, Tensor};
use std::path::Path;
use tempfile::TempDir;

const TOKENS: [u32; 6] = [7, 300, 12, 4000, 9, 55];

/// The artefact of the demo model with states of this type.
fn compiled(dir: &TempDir, dtype: &str) -> String {
    let artifact = text(&dir.path().join(format!("{dtype}.ssmc")));
    let model = text(&tiny_lm());
    expect(0, &["compile", &model, "-o", &artifact, "--target-cpu", "native", "--state-dtype", dtype]);
    artifact
}

fn session(artifact: &str) -> Session {
    let artifact = Artifact::open(Path::new(artifact)).expect("the artefact is whole");
    let options = SessionOptions { max_batch: 2, max_len: 16, ..SessionOptions::default() };
    Session::new(&artifact, &options).expect("there is room for a session")
}

fn dtypes(state: &State) -> Vec<DType> {
    state.tensors().expect("states lie in memory").into_iter().map(|(_, tensor)| tensor.dtype()).collect()
}

fn floats(logits: &Tensor) -> Vec<f32> {
    logits.as_slice::<f32>().expect("logits are f32").to_vec()
}

/// The largest difference over the largest number.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let largest = |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0.0f32, |most, x| most.max(x.abs()));
    largest(&mut found.iter().zip(expected).map(|(x, y)| x - y)) / largest(&mut expected.iter().copied())
}

#[test]
fn states_in_halves_are_half_as_large_and_continue_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let [mut exact, mut halves] = ["f32", "bf16"].map(|dtype| session(&compiled(&dir, dtype)));
    let (mut known, mut state) = (exact.new_state(1).unwrap(), halves.new_state(1).unwrap());
    assert_eq!(known.byte_len(), 2 * state.byte_len());
    assert!(dtypes(&known).iter().all(|dtype| *dtype == DType::F32));
    assert!(dtypes(&state).iter().all(|dtype| *dtype == DType::Bf16));
    exact.prefill(&mut known, &TOKENS).unwrap();
    halves.prefill(&mut state, &TOKENS).unwrap();
    let mut worst = 0.0f32;
    for token in [3, 14, 159, 26] {
        let expected = floats(&exact.step(&mut known, &[token]).unwrap());
        let found = floats(&halves.step(&mut state, &[token]).unwrap());
        worst = worst.max(difference(&found, &expected));
    }
    assert!(worst > 0.0 && worst <= 3e-2, "{worst}");
}

#[test]
fn saved_forked_and_undone_states_go_on_alike() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = compiled(&dir, "bf16");
    let mut session = session(&artifact);
    let mut state = session.new_state(2).unwrap();
    session.prefill(&mut state, &TOKENS).unwrap();
    let blob = state.save().unwrap();
    let mut loaded = session.load_state(&blob).unwrap();
    assert_eq!(loaded.save().unwrap(), blob);
    let mut fork = state.clone();
    let expected = session.step(&mut state, &[1, 2]).unwrap();
    assert_eq!(session.step(&mut loaded, &[1, 2]).unwrap().bytes(), expected.bytes());
    session.step(&mut fork, &[8, 9]).unwrap();
    fork.rollback(1).unwrap();
    assert_eq!(fork.save().unwrap(), blob);
    assert_eq!(session.step(&mut fork, &[1, 2]).unwrap().bytes(), expected.bytes());
}

#[test]
fn states_of_another_type_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [exact, halves] = ["f32", "bf16"].map(|dtype| session(&compiled(&dir, dtype)));
    let blob = halves.new_state(1).unwrap().save().unwrap();
    let error = exact.load_state(&blob).unwrap_err().to_string();
    assert!(error.contains("expected") && error.contains("f32[") && error.contains("bf16["), "{error}");
    let error = halves.load_state(&exact.new_state(1).unwrap().save().unwrap()).unwrap_err().to_string();
    assert!(error.contains("f32[") && error.contains("bf16["), "{error}");
}

#[test]
fn the_type_is_shown_and_what_is_computed_verified() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = compiled(&dir, "f16");
    let found = json("ssmc.inspect.v1", &["inspect", &artifact]);
    let states = found["states"].as_array().unwrap();
    assert!(!states.is_empty() && states.iter().all(|state| state["dtype"] == "f16"), "{states:?}");
    expect(0, &["selftest", &artifact]);
    let model = text(&tiny_lm());
    expect(0, &["verify", &model, "--len", "4", "--state-dtype", "bf16", "--target-cpu", "native"]);
    let (_, stderr) = expect(2, &["compile", &model, "--state-dtype", "f8"]);
    assert!(stderr.contains("expected one of f32, bf16, f16, found f8"), "{stderr}");
}
