use ssmc_artifact::{DType, Expr};
use ssmc_runtime::{RuntimeError, Session, SessionOptions, State, Tensor, TensorMut, TensorRef};

use crate::toy::{self, Toy, scan_ref};

fn value(tensor: &Tensor) -> i32 {
    tensor.as_slice::<i32>().unwrap()[0]
}

fn h(state: &State) -> Vec<i32> {
    state
        .tensors()
        .unwrap()
        .into_iter()
        .find(|(name, _)| *name == "h")
        .unwrap()
        .1
        .as_slice::<i32>()
        .unwrap()
        .to_vec()
}

#[test]
fn steps_continue_a_prefill() {
    let mut session = toy::session();
    let mut state = session.new_state(1).unwrap();
    assert_eq!((state.position(), state.byte_len(), h(&state)), (0, 8, vec![0]));
    session.prefill(&mut state, &[3, 1, 4]).unwrap();
    let expected = scan_ref(0, &[3, 1, 4, 1, 5]);
    assert_eq!(value(&session.step(&mut state, &[1]).unwrap()), expected[3]);
    let mut logits = [0i32];
    session.step_into(&mut state, &[5], TensorMut::new(&[1, 1], &mut logits).unwrap()).unwrap();
    assert_eq!((logits[0], state.position(), h(&state)), (expected[4], 5, vec![expected[4]]));
}

#[test]
fn sequences_of_a_batch_are_separate() {
    let mut session = toy::session();
    let mut state = session.new_state(3).unwrap();
    session.prefill(&mut state, &[1, 2, 3, 4, 5, 6]).unwrap();
    session.step(&mut state, &[7, 8, 9]).unwrap();
    let expected: Vec<i32> =
        [[1, 2, 7], [3, 4, 8], [5, 6, 9]].iter().map(|ids| scan_ref(0, ids)[2]).collect();
    assert_eq!(h(&state), expected);
}

#[test]
fn clones_are_forks() {
    let mut session = toy::session();
    let mut state = session.new_state(1).unwrap();
    session.prefill(&mut state, &[3, 1]).unwrap();
    let mut fork = state.clone();
    session.step(&mut fork, &[9]).unwrap();
    assert_eq!(h(&state), [7]);
    assert_eq!(value(&session.step(&mut state, &[0]).unwrap()), 14);
    assert_eq!(h(&fork), [23]);
    fork.rollback(2).unwrap();
    assert_eq!((h(&fork), fork.position()), (vec![0], 0));
}

#[test]
fn rollback_undoes_calls_up_to_its_depth() {
    for depth in [0, 1, 2, 5] {
        let mut session = toy::session_with(&SessionOptions { rollback_depth: depth, ..toy::options() });
        let mut state = session.new_state(1).unwrap();
        let mut trace = vec![(0, 0)];
        // Long prefills alternate between two generations.
        for ids in [&[1][..], &[2; 20], &[3; 3], &[4], &[5; 33], &[6]] {
            session.prefill(&mut state, ids).unwrap();
            trace.push((state.position(), h(&state)[0]));
            let available = state.rollback_available();
            assert_eq!(available, depth.min(trace.len() - 1), "depth {depth}");
            for n_calls in 0..=available {
                let mut earlier = state.clone();
                earlier.rollback(n_calls).unwrap();
                assert_eq!((earlier.position(), h(&earlier)[0]), trace[trace.len() - 1 - n_calls]);
                let replay = session.step(&mut earlier, &[8]).unwrap();
                assert_eq!(value(&replay), scan_ref(trace[trace.len() - 1 - n_calls].1, &[8])[0]);
            }
            let error = state.rollback(available + 1).unwrap_err();
            assert!(matches!(error, RuntimeError::Rollback { .. }));
        }
    }
}

#[test]
fn saved_states_load_in_other_sessions() {
    let mut session = toy::session();
    let mut state = session.new_state(2).unwrap();
    session.prefill(&mut state, &[1, 2, 3, 4]).unwrap();
    let bytes = state.save().unwrap();
    let mut other = toy::session_with(&SessionOptions { threads: 1, rollback_depth: 0, ..toy::options() });
    let mut loaded = other.load_state(&bytes).unwrap();
    assert_eq!((loaded.position(), loaded.batch(), h(&loaded)), (2, 2, h(&state)));
    assert_eq!(loaded.rollback_available(), 0);
    assert_eq!(loaded.save().unwrap(), bytes);
    let expected = session.step(&mut state, &[5, 6]).unwrap();
    let found = other.step(&mut loaded, &[5, 6]).unwrap();
    assert_eq!(found.bytes(), expected.bytes());
}

fn load_error(session: &Session, bytes: &[u8]) -> String {
    session.load_state(bytes).unwrap_err().to_string()
}

#[test]
fn foreign_and_corrupt_states_are_refused() {
    let session = toy::session();
    let bytes = session.new_state(3).unwrap().save().unwrap();
    assert!(load_error(&session, &bytes[..bytes.len() - 1]).contains("truncated"));
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(load_error(&session, &flipped).contains("checksum"));
    assert!(load_error(&session, b"PK\x03\x04").contains("not an ssmc state"));

    let small = toy::session_with(&SessionOptions { max_batch: 2, ..toy::options() });
    assert_eq!(load_error(&small, &bytes), "state does not fit: batch: expected 1 to 2, found 3");

    let mut manifest = toy::manifest();
    manifest.model_hash = vec![1; 32];
    let other = Toy::write(manifest, toy::golden(15)).open();
    let mut other = Session::new(&other, &toy::options()).unwrap();
    let expected = format!("model hash: expected {}, found {}", "01".repeat(32), "ab".repeat(32));
    assert!(load_error(&other, &bytes).ends_with(&expected));
    let mut foreign = session.new_state(1).unwrap();
    assert!(other.step(&mut foreign, &[1]).unwrap_err().to_string().ends_with(&expected));

    let mut blob = ssmc_artifact::decode_state(&bytes).unwrap();
    blob.states[0].dims = vec![4];
    let error = load_error(&session, &ssmc_artifact::encode_state(&blob));
    assert_eq!(error, "state does not fit: tensor: expected h: i32[3], found h: i32[4]");
    blob.states[0].dims = vec![3];
    blob.states[0].data.pop();
    let error = load_error(&session, &ssmc_artifact::encode_state(&blob));
    assert_eq!(error, "state does not fit: bytes of h: expected 12, found 11");
    blob.states.pop();
    let error = load_error(&session, &ssmc_artifact::encode_state(&blob));
    assert_eq!(error, "state does not fit: number of tensors: expected 2, found 1");
}

/// A session whose states are two halves where those of the toy are one integer; its kernels see the same bytes.
fn of_halves() -> Session {
    let mut manifest = toy::manifest();
    for state in &mut manifest.states {
        state.dtype = DType::Bf16.into();
        state.shape.push(Expr::constant(2));
    }
    let artifact = Toy::write(manifest, toy::golden(15)).open();
    Session::new(&artifact, &toy::options()).unwrap()
}

fn bytes(state: &State) -> Vec<Vec<u8>> {
    state.tensors().unwrap().into_iter().map(|(_, tensor)| tensor.bytes().to_vec()).collect()
}

#[test]
fn states_in_halves_are_kept_saved_and_forked_as_such() {
    let (mut session, mut halves) = (toy::session(), of_halves());
    let (mut known, mut state) = (session.new_state(1).unwrap(), halves.new_state(1).unwrap());
    session.prefill(&mut known, &[3, 1]).unwrap();
    halves.prefill(&mut state, &[3, 1]).unwrap();
    assert_eq!((bytes(&state), state.byte_len()), (bytes(&known), known.byte_len()));
    let kinds: Vec<_> =
        state.tensors().unwrap().into_iter().map(|(_, t)| (t.dtype(), t.dims().to_vec())).collect();
    assert!(kinds.iter().all(|kind| *kind == (DType::Bf16, vec![1, 2])), "{kinds:?}");
    let blob = state.save().unwrap();
    let mut loaded = halves.load_state(&blob).unwrap();
    assert_eq!(loaded.save().unwrap(), blob);
    let mut fork = state.clone();
    halves.step(&mut fork, &[9]).unwrap();
    assert_eq!(value(&halves.step(&mut state, &[0]).unwrap()), 14);
    assert_eq!(value(&halves.step(&mut loaded, &[0]).unwrap()), 14);
    fork.rollback(1).unwrap();
    assert_eq!(fork.save().unwrap(), blob);
}

#[test]
fn states_of_another_type_are_refused() {
    let (session, halves) = (toy::session(), of_halves());
    let blob = halves.new_state(1).unwrap().save().unwrap();
    let error = load_error(&session, &blob);
    assert_eq!(error, "state does not fit: tensor: expected h: i32[1], found h: bf16[1, 2]");
    let mut blob = ssmc_artifact::decode_state(&blob).unwrap();
    for state in &mut blob.states {
        state.dtype = DType::F16.into();
    }
    let error = load_error(&halves, &ssmc_artifact::encode_state(&blob));
    assert_eq!(error, "state does not fit: tensor: expected h: bf16[1, 2], found h: f16[1, 2]");
}

#[test]
fn a_failing_call_leaves_the_state() {
    let mut session = toy::session();
    let mut state = session.new_state(1).unwrap();
    session.prefill(&mut state, &[1, 2]).unwrap();
    let before = state.save().unwrap();
    // The second block holds an id that is out of bounds.
    let mut ids = vec![1; 12];
    ids[10] = 1000;
    assert!(matches!(session.prefill(&mut state, &ids), Err(RuntimeError::Value { index: 2, .. })));
    assert!(session.step(&mut state, &[1, 2]).is_err());
    assert_eq!(state.save().unwrap(), before);
    assert_eq!(value(&session.step(&mut state, &[3]).unwrap()), 11);
}

#[test]
fn states_updated_in_place_keep_their_contents() {
    let mut session = toy::session();
    let mut state = session.new_state(1).unwrap();
    let mut total = |state: &mut State, id: i32| {
        let ids = [id];
        let inputs = [("input_ids", TensorRef::new(&[1, 1], &ids).unwrap())];
        session.run_stateful("step_total", state, 1, &inputs).unwrap();
        session.step(state, &[1]).unwrap();
        state
            .tensors()
            .unwrap()
            .into_iter()
            .find(|(name, _)| *name == "total")
            .unwrap()
            .1
            .as_slice::<i32>()
            .unwrap()[0]
    };
    assert_eq!(total(&mut state, 5), 5);
    assert_eq!(total(&mut state, 1), 11);
    state.rollback(2).unwrap();
    assert_eq!(total(&mut state, 0), 10);
}

#[test]
fn a_state_takes_in_as_many_tokens_as_the_model_says() {
    let manifest = ssmc_artifact::Manifest { max_context: 4, ..toy::manifest() };
    let toy = Toy::write(manifest, toy::golden(0));
    let mut session = Session::new(&toy.open(), &toy::options()).unwrap();
    let mut state = session.new_state(1).unwrap();
    session.prefill(&mut state, &[3, 1, 4]).unwrap();
    let error = session.prefill(&mut state, &[1, 5]).unwrap_err();
    assert!(matches!(error, RuntimeError::Context { max: 4, position: 3, found: 2 }), "{error}");
    assert!(error.to_string().contains("expected at most 1, found 2"), "{error}");
    session.step(&mut state, &[1]).unwrap();
    assert!(session.step(&mut state, &[5]).is_err());
    state.rollback(1).unwrap();
    session.step(&mut state, &[5]).unwrap();
    assert_eq!(state.position(), 4);
}

/// A session of the toy whose programs may write states over those before.
fn in_place(depth: usize) -> Session {
    let mut manifest = toy::manifest();
    manifest.programs.iter_mut().for_each(|program| program.in_place = program.stateful);
    let artifact = Toy::write(manifest, toy::golden(15)).open();
    Session::new(&artifact, &SessionOptions { rollback_depth: depth, ..toy::options() }).unwrap()
}

#[test]
fn states_that_nobody_goes_back_to_are_written_over() {
    let (mut keeping, mut updating) = (in_place(1), in_place(0));
    let (mut kept, mut updated) = (keeping.new_state(1).unwrap(), updating.new_state(1).unwrap());
    for ids in [&[1][..], &[2; 20], &[3; 3], &[4], &[5; 33], &[6]] {
        let expected = keeping.prefill(&mut kept, ids).unwrap();
        assert_eq!(updating.prefill(&mut updated, ids).unwrap().bytes(), expected.bytes());
        assert_eq!((updated.position(), h(&updated)), (kept.position(), h(&kept)));
        assert_eq!((kept.rollback_available(), updated.rollback_available()), (1, 0));
    }
    assert_eq!(updated.save().unwrap(), kept.save().unwrap());
    updating.prefill(&mut updated, &[7, 8, 9, -1i32 as u32]).unwrap_err();
    assert_eq!(updated.save().unwrap(), kept.save().unwrap());
}

struct Interrupted;

impl ssmc_runtime::LaunchObserver for Interrupted {
    fn before(&mut self, _: &ssmc_runtime::LaunchView<'_>) {}

    fn after(&mut self, _: &ssmc_runtime::LaunchView<'_>) {
        panic!("the first launch has written its part");
    }
}

#[test]
fn a_state_that_was_partly_written_over_is_lost() {
    let mut session = in_place(0);
    let mut state = session.new_state(1).unwrap();
    let ids = [1i32];
    let input = [("input_ids", TensorRef::new(&[1, 1], &ids).unwrap())];
    let call = std::panic::AssertUnwindSafe(|| {
        session.run_observed("step", Some((&mut state, 1)), &input, &mut Interrupted)
    });
    assert!(std::panic::catch_unwind(call).is_err());
    assert!(matches!(session.step(&mut state, &[1]), Err(RuntimeError::StateLost)));
    assert!(matches!(state.save(), Err(RuntimeError::StateLost)));
    assert!(matches!(state.clone().tensors(), Err(RuntimeError::StateLost)));
    session.step(&mut session.new_state(1).unwrap(), &[1]).unwrap();
}
