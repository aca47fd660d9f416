//! States that are written over those before.
#![cfg(feature = "llvm")]

mod common;

use common::{expect, text, tiny_lm};
use ssmc::runtime::{Artifact, RuntimeError, Session, SessionOptions};
use ssmc_frontend::safetensors::synthetic::{Mixer, Storage, SyntheticModel};
use std::path::Path;
use tempfile::TempDir;

fn compiled(dir: &TempDir, model: &Path) -> Artifact {
    let artifact = dir.path().join("model.ssmc");
    expect(0, &["compile", &text(model), "-o", &text(&artifact), "--target-cpu", "native"]);
    Artifact::open(&artifact).expect("the artefact is whole")
}

fn session(artifact: &Artifact, rollback_depth: usize) -> Session {
    let options =
        SessionOptions { max_batch: 2, max_len: 24, rollback_depth, threads: 2, ..SessionOptions::default() };
    Session::new(artifact, &options).expect("there is room for a session")
}

/// Two groups of two heads.
fn mamba2(dir: &TempDir) -> std::path::PathBuf {
    let model = SyntheticModel {
        mixer: Mixer::Mamba2 { head_dim: 24, n_groups: 2, chunk_size: 8 },
        d_model: 48,
        d_inner: 96,
        d_state: 32,
        n_layers: 2,
        vocab_size: 99,
        ..SyntheticModel::mamba2_130m(Storage::F32)
    };
    let folder = dir.path().join("mamba2");
    model.write(&folder).expect("the folder can be written");
    folder
}

/// Logits and states are those of a session that keeps the states before, bit for bit.
fn assert_same(artifact: &Artifact) {
    let programs = &artifact.manifest().programs;
    let stateful: Vec<_> = programs.iter().filter(|program| program.stateful).collect();
    assert!(!stateful.is_empty() && stateful.iter().all(|program| program.in_place), "{stateful:?}");
    let (mut keeping, mut updating) = (session(artifact, 1), session(artifact, 0));
    for batch in [1, 2] {
        let (mut kept, mut updated) = (
            keeping.new_state(batch).expect("there is room"),
            updating.new_state(batch).expect("there is room"),
        );
        // The longest takes several blocks.
        for len in [1, 2, 3, 23, 24, 61] {
            let ids: Vec<u32> = (0..batch as u32 * len).map(|i| i * 31 % 97).collect();
            let expected = keeping.prefill(&mut kept, &ids).expect("the tokens fit");
            assert_eq!(
                updating.prefill(&mut updated, &ids).expect("the tokens fit").bytes(),
                expected.bytes(),
                "{batch} {len}"
            );
            let ids = &ids[..batch];
            let expected = keeping.step(&mut kept, ids).expect("the tokens fit");
            assert_eq!(
                updating.step(&mut updated, ids).expect("the tokens fit").bytes(),
                expected.bytes(),
                "{batch} {len}"
            );
            assert_eq!(
                updated.save().expect("the state is there"),
                kept.save().expect("the state is there"),
                "{batch} {len}"
            );
        }
    }
}

#[test]
fn selective_scans_update_states_in_place() {
    let dir = tempfile::tempdir().unwrap();
    assert_same(&compiled(&dir, &tiny_lm()));
}

#[test]
fn state_space_duality_updates_states_in_place() {
    let dir = tempfile::tempdir().unwrap();
    assert_same(&compiled(&dir, &mamba2(&dir)));
}

#[test]
fn forks_are_copies_and_refused_calls_leave_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = compiled(&dir, &mamba2(&dir));
    let mut session = session(&artifact, 0);
    let mut state = session.new_state(1).unwrap();
    session.prefill(&mut state, &[1, 2, 3]).unwrap();
    let before = state.save().unwrap();
    let mut fork = state.clone();
    session.step(&mut fork, &[4]).unwrap();
    assert_ne!(fork.save().unwrap(), before);
    session.step(&mut state, &[99]).unwrap_err();
    assert_eq!(state.save().unwrap(), before);
    assert!(matches!(state.rollback(1), Err(RuntimeError::Rollback { found: 1, available: 0 })));
    let mut loaded = session.load_state(&before).unwrap();
    let expected = session.step(&mut state, &[4]).unwrap();
    assert_eq!(session.step(&mut loaded, &[4]).unwrap().bytes(), expected.bytes());
}
