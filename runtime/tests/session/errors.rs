use std::fs;

use ssmc_artifact::{Expr, NO_ENTRY, StateKind};
use ssmc_runtime::{
    Artifact, DType, Gemm, RuntimeError, Session, SessionOptions, Tensor, TensorMut, TensorRef,
};

use crate::toy::{self, Toy};

fn new_error(options: SessionOptions) -> String {
    let artifact = Toy::write(toy::manifest(), toy::golden(15)).open();
    Session::new(&artifact, &options).err().expect("the session must be refused").to_string()
}

#[test]
fn sessions_that_cannot_be_planned_are_refused() {
    let base = toy::options;
    let level = |name: &str| SessionOptions { level: Some(name.into()), ..base() };
    let error = new_error(level("x86-64-v9"));
    assert_eq!(error, "the artefact has no code for level x86-64-v9, expected one of [\"base\", \"future\"]");
    let error = new_error(level("future"));
    assert!(
        error.contains("this machine cannot run level future") && error.contains("not-yet-invented"),
        "{error}"
    );
    assert_eq!(toy::session_with(&level("base")).level(), "base");
    assert_eq!(toy::session().level(), "base");

    let error = new_error(SessionOptions { max_len: usize::MAX, ..base() });
    assert_eq!(error, "size of slot 0 of program forward");
    let error = new_error(SessionOptions { max_len: 1 << 50, ..base() });
    assert!(error.starts_with("the arena needs 4503599627370560 bytes of memory"), "{error}");
    let error = new_error(SessionOptions { memory_limit: Some(1 << 20), ..base() });
    assert_eq!(error, "the arena needs 4194304 bytes of memory, the limit is 1048576");
    let error = new_error(SessionOptions { gemm: Gemm::CublasLt, ..base() });
    assert_eq!(error, "session option gemm: expected own for code of a CPU, found cublaslt");
    let error = new_error(SessionOptions { max_len: 0, ..base() });
    assert_eq!(error, "session option max_len: expected seq_len at least 1, found 0");
    let error = new_error(SessionOptions { threads: 100_000, ..base() });
    assert_eq!(error, "session option threads: expected at most 1024, found 100000");
    let error = new_error(SessionOptions { maxima: vec![("m".into(), 3)], ..base() });
    assert_eq!(error, "session option maxima: expected one of [\"batch\", \"seq_len\", \"n\"], found m = 3");
}

#[test]
fn states_that_are_too_large_are_refused() {
    let fits = SessionOptions { rollback_depth: 1 << 40, memory_limit: Some(1 << 30), ..toy::options() };
    let session = toy::session_with(&fits);
    assert!(matches!(session.new_state(1), Err(RuntimeError::Memory { limit: 0x4000_0000, .. })));
    for batch in [0, 4] {
        assert!(matches!(session.new_state(batch), Err(RuntimeError::StateMismatch { .. })));
    }
}

#[test]
fn artefacts_that_the_runtime_cannot_serve_are_refused() {
    let refuse = |change: fn(&mut ssmc_runtime::Manifest)| {
        let mut manifest = toy::manifest();
        change(&mut manifest);
        let artifact = Toy::write(manifest, toy::golden(15)).open();
        Session::new(&artifact, &toy::options()).err().expect("the session must be refused").to_string()
    };
    assert_eq!(refuse(|m| m.kernels[2].entries[0] = NO_ENTRY), "kernel add has no code for level base");
    assert_eq!(refuse(|m| m.states[0].kind = StateKind::Growing.into()), "unsupported: growing state h");
    assert_eq!(refuse(|m| m.symbols[2].max = 0), "symbol n has no maximum: set one in the session options");
}

#[test]
fn files_that_are_no_artefact_are_refused() {
    let toy = Toy::write(toy::manifest(), toy::golden(15));
    let valid = fs::read(&toy.path).unwrap();
    let path = toy.path.with_file_name("bad.ssmc");
    for bytes in [&[][..], b"ONNX", &valid[..100], &valid[..valid.len() - 1]] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Artifact::open(&path), Err(RuntimeError::Artifact(_))), "{} bytes", bytes.len());
    }
    let artifact = toy.open();
    let code = artifact.sections().iter().find(|s| s.kind.to_string() == "code[0]").unwrap().offset as usize;
    let weights = artifact.sections()[0].offset as usize;
    let mut corrupt = valid.clone();
    corrupt[code + 7] ^= 1;
    fs::write(&path, &corrupt).unwrap();
    assert!(
        Artifact::open(&path).unwrap_err().to_string().starts_with("checksum of the code[0] does not match")
    );
    let mut corrupt = valid;
    corrupt[weights] ^= 1;
    fs::write(&path, &corrupt).unwrap();
    let error = Artifact::open(&path).unwrap().verify_weights().unwrap_err();
    assert!(error.to_string().starts_with("checksum of the weights does not match"), "{error}");
    artifact.verify_weights().unwrap();
    let missing = Artifact::open(toy.path.with_file_name("missing.ssmc")).unwrap_err();
    assert!(missing.to_string().ends_with("missing.ssmc"));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let mut session = toy::session();
    let values = [1.0f32; 6];
    let ints = [1i32; 6];
    let a = |dims| TensorRef::new(dims, &values[..]).unwrap();
    let run = |session: &mut Session, program: &str, inputs: &[(&str, TensorRef<'_>)]| {
        session.run(program, inputs).unwrap_err().to_string()
    };
    let cases: &[(&[(&str, TensorRef<'_>)], &str)] = &[
        (&[("a", a(&[6]))], "program add_twice: input b is missing"),
        (
            &[("a", a(&[6])), ("c", a(&[6]))],
            "program add_twice: unexpected input c, expected [\"a\", \"b\"] once each",
        ),
        (
            &[("a", a(&[6])), ("a", a(&[6]))],
            "program add_twice: unexpected input a, expected [\"a\", \"b\"] once each",
        ),
        (
            &[("a", a(&[6])), ("b", TensorRef::new(&[6], &ints).unwrap())],
            "program add_twice: input b has the wrong dtype: expected f32, found i32",
        ),
        (
            &[("a", a(&[6])), ("b", a(&[2, 3]))],
            "program add_twice: input b has the wrong shape: expected [n], found [2, 3]",
        ),
        (
            &[("a", a(&[6])), ("b", TensorRef::new(&[5], &values[..5]).unwrap())],
            "program add_twice: input b has n = 5, expected 6 as input a has it",
        ),
        (
            &[
                ("a", TensorRef::new::<f32>(&[0], &[]).unwrap()),
                ("b", TensorRef::new::<f32>(&[0], &[]).unwrap()),
            ],
            "program add_twice: n = 0, expected 1 to 1048576",
        ),
    ];
    for (inputs, expected) in cases {
        assert_eq!(run(&mut session, "add_twice", inputs), *expected);
    }
    let error = run(&mut session, "add", &[]);
    assert!(error.starts_with("no program add, expected one of [\"forward\", \"prefill\","), "{error}");
    let packed = [
        ("input_ids", TensorRef::new(&[2, 3], &ints).unwrap()),
        ("seq_idx", TensorRef::new(&[1, 3], &ints[..3]).unwrap()),
    ];
    let error = run(&mut session, "forward_packed", &packed);
    assert_eq!(
        error,
        "program forward_packed: input input_ids has the wrong shape: expected [1, seq_len], found [2, 3]"
    );
    let error = run(&mut session, "step", &[("input_ids", TensorRef::new(&[1, 1], &ints[..1]).unwrap())]);
    assert_eq!(error, "program step needs a state");
    let mut state = session.new_state(2).unwrap();
    let one = [("input_ids", TensorRef::new(&[1, 1], &ints[..1]).unwrap())];
    let error = session.run_stateful("step", &mut state, 1, &one).unwrap_err().to_string();
    assert_eq!(error, "program step: input input_ids has batch = 1, expected 2 as the state has it");
    let error = session.run_stateful("forward", &mut state, 1, &one).unwrap_err().to_string();
    assert_eq!(error, "program forward takes no state");
}

#[test]
fn outputs_that_do_not_fit_are_named() {
    let mut session = toy::session();
    let a = [1.0f32; 3];
    let inputs = [("a", TensorRef::new(&[3], &a).unwrap())];
    let mut y = [0.0f32; 4];
    let mut run = |name: &str, dims: &[usize], len: usize| {
        let mut outputs = [(name, TensorMut::new(dims, &mut y[..len]).unwrap())];
        session.run_into("add_weight_tail", &inputs, &mut outputs).unwrap_err().to_string()
    };
    let error = run("y", &[4], 4);
    assert_eq!(error, "program add_weight_tail: output y has the wrong shape: expected [n], found [4]");
    let error = run("z", &[3], 3);
    assert_eq!(error, "program add_weight_tail: unexpected output z, expected [\"y\"] once each");
    let error = session.run_into("add_weight_tail", &inputs, &mut []).unwrap_err().to_string();
    assert_eq!(error, "program add_weight_tail: output y is missing");
}

#[test]
fn offsets_outside_a_buffer_are_refused() {
    let mut session = toy::session();
    let a = [0.0f32; toy::N_WEIGHT + 1];
    let inputs = [("a", TensorRef::new(&[toy::N_WEIGHT + 1], &a).unwrap())];
    let error = session.run("add_weight_tail", &inputs).unwrap_err();
    assert!(matches!(error, RuntimeError::Launch { launch: 0, offset: -4, length: 160, .. }), "{error}");

    let mut manifest = toy::manifest();
    let add_weight = manifest.programs.last_mut().unwrap();
    add_weight.launches[0].args[1].byte_offset = Some(Expr::symbol(2) * 8.into());
    let artifact = Toy::write(manifest, toy::golden(15)).open();
    let mut session = Session::new(&artifact, &toy::options()).unwrap();
    let error =
        session.run("add_weight_tail", &[("a", TensorRef::new(&[21], &a[..21]).unwrap())]).unwrap_err();
    assert!(matches!(error, RuntimeError::Launch { launch: 0, offset: 168, length: 160, .. }), "{error}");
}

#[test]
fn symbols_beyond_the_plan_are_refused() {
    let mut session = toy::session_with(&SessionOptions { maxima: vec![("n".into(), 20)], ..toy::options() });
    let a = [0.0f32; 21];
    let mut run = |n: usize| {
        let dims = [n];
        session.run("add_weight_tail", &[("a", TensorRef::new(&dims, &a[..n]).unwrap())]).map(drop)
    };
    run(20).unwrap();
    let error = run(21).unwrap_err();
    assert_eq!(error.to_string(), "program add_weight_tail: n = 21, expected 1 to 20");
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let mut session = toy::session();
    let mut state = session.new_state(2).unwrap();
    let text = |result: Result<Tensor, RuntimeError>| result.unwrap_err().to_string();
    assert_eq!(
        text(session.forward(2, &[1, 2, 3])),
        "3 tokens do not divide into 2 sequences of at least one token"
    );
    assert_eq!(
        text(session.forward(1, &[])),
        "0 tokens do not divide into 1 sequences of at least one token"
    );
    assert!(text(session.prefill(&mut state, &[])).starts_with("0 tokens"));
    assert!(text(session.step(&mut state, &[1])).starts_with("1 tokens do not divide into 2"));
    assert_eq!(text(session.forward(1, &[1; 9])), "program forward: seq_len = 9, expected 1 to 8");
    assert_eq!(text(session.forward(4, &[1; 4])), "program forward: batch = 4, expected 1 to 3");
    assert_eq!(
        text(session.forward(1, &[1, 1000])),
        "program forward: input input_ids[1] = 1000, expected 0 to 999"
    );
    assert!(
        text(session.forward(1, &[u32::MAX])).contains("input_ids[0] = 4294967295, expected 0 to 2147483647")
    );
    let packed: &[(&[u32], &str)] = &[
        (&[], "cu_seqlens[0] = 0, expected 0 as the first offset, found none"),
        (&[1, 3], "cu_seqlens[0] = 1, expected 0"),
        (&[0, 2, 1, 3], "cu_seqlens[2] = 1, expected at least 2"),
        (&[0, 2], "cu_seqlens[1] = 2, expected 3"),
        (&[0, 4], "cu_seqlens[1] = 4, expected 3"),
    ];
    for (cu_seqlens, expected) in packed {
        assert_eq!(text(session.forward_packed(&[1, 2, 3], cu_seqlens)), *expected);
    }
    assert_eq!(
        text(session.forward_packed(&[1; 9], &[0, 9])),
        "program forward_packed: seq_len = 9, expected 1 to 8"
    );
    assert!(session.forward_packed(&[1; 8], &[0, 8]).is_ok(), "errors must not spoil the session");
}

#[test]
fn tensors_are_checked() {
    let bytes = Tensor::zeros(DType::F32, &[4]).unwrap();
    let misaligned = TensorRef::from_bytes(DType::F32, &[1], &bytes.bytes()[1..5]);
    assert!(misaligned.unwrap_err().to_string().contains("no multiple of 4"));
    let short = TensorRef::from_bytes(DType::F32, &[2, 2], &bytes.bytes()[..12]);
    assert!(short.unwrap_err().to_string().ends_with("expected 16 bytes, found 12"));
    assert!(Tensor::zeros(DType::F32, &[usize::MAX, 2]).is_err());
    assert!(Tensor::zeros(DType::U8, &[isize::MAX as usize]).is_err());
    assert!(bytes.as_slice::<i32>().is_none());
}
