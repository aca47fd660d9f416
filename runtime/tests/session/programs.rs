use ssmc_runtime::{DType, LaunchObserver, LaunchView, SessionOptions, Tensor, TensorMut, TensorRef};

use crate::toy::{self, scan_ref};

const IDS: [u32; 6] = [5, 0, 7, 999, 3, 1];

fn ints(tensor: &Tensor) -> Vec<i32> {
    tensor.as_slice::<i32>().unwrap().to_vec()
}

#[test]
fn forward_gives_every_position() {
    let mut session = toy::session();
    let logits = session.forward(2, &IDS).unwrap();
    assert_eq!((logits.dtype(), logits.dims()), (DType::I32, &[2, 3, 1][..]));
    assert_eq!(ints(&logits), [scan_ref(0, &IDS[..3]), scan_ref(0, &IDS[3..])].concat());
    let shorter = session.forward(1, &IDS[..2]).unwrap();
    assert_eq!(ints(&shorter), scan_ref(0, &IDS[..2]), "the second call has other sizes");
}

#[test]
fn results_do_not_depend_on_threads() {
    let n = 1000;
    let a: Vec<f32> = (0..n).map(|k| k as f32 * 0.1).collect();
    let b: Vec<f32> = (0..n).map(|k| 1.0 / (k as f32 + 1.0)).collect();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b + b).collect();
    for threads in [1, 2, 3, 7, 64] {
        let mut session = toy::session_with(&SessionOptions { threads, ..toy::options() });
        assert_eq!(session.n_threads(), threads);
        for _ in 0..50 {
            let dims = [n];
            let inputs =
                [("b", TensorRef::new(&dims, &b).unwrap()), ("a", TensorRef::new(&dims, &a).unwrap())];
            let outputs = session.run("add_twice", &inputs).unwrap();
            assert_eq!(outputs.get("y").unwrap().as_slice::<f32>().unwrap(), expected);
        }
    }
}

#[test]
fn weights_are_read_at_offsets() {
    let mut session = toy::session();
    let a = [100.0f32, 200.0, 300.0];
    let mut y = [0.0f32; 3];
    let mut outputs = [("y", TensorMut::new(&[3], &mut y).unwrap())];
    session.run_into("add_weight_tail", &[("a", TensorRef::new(&[3], &a).unwrap())], &mut outputs).unwrap();
    assert_eq!(y, [137.0, 238.0, 339.0]);
}

#[test]
fn packed_sequences_are_separate() {
    let mut session = toy::session();
    let logits = session.forward_packed(&IDS, &[0, 2, 2, 5, 6]).unwrap();
    assert_eq!(logits.dims(), [1, 6, 1]);
    let separate = [scan_ref(0, &IDS[..2]), scan_ref(0, &IDS[2..5]), scan_ref(0, &IDS[5..])];
    assert_eq!(ints(&logits), separate.concat());
}

#[test]
fn prefill_in_blocks_equals_one_prefill() {
    let ids: Vec<u32> = (0..2 * 21).map(|k| k * k % 1000).collect();
    let last = [scan_ref(0, &ids[..21])[20], scan_ref(0, &ids[21..])[20]];
    for max_len in [1, 4, 7, 20, 21, 64] {
        let mut session = toy::session_with(&SessionOptions { max_len, ..toy::options() });
        let mut state = session.new_state(2).unwrap();
        let logits = session.prefill(&mut state, &ids).unwrap();
        assert_eq!((ints(&logits), logits.dims()), (last.to_vec(), &[2, 1][..]), "max_len {max_len}");
        assert_eq!((state.position(), state.rollback_available()), (21, 1));
    }
}

#[test]
fn profiles_count_work() {
    let mut session = toy::session();
    let a = vec![1.0f32; 33];
    let dims = [33];
    let tensor = TensorRef::new(&dims, &a).unwrap();
    let (outputs, profile) =
        session.run_profiled("add_twice", None, &[("a", tensor), ("b", tensor)]).unwrap();
    assert_eq!(outputs.get("y").unwrap().as_slice::<f32>().unwrap(), [3.0; 33]);
    assert_eq!(profile.len(), 2);
    assert_eq!((profile[1].launch, profile[1].kernel.as_str(), profile[1].grid), (1, "add", 3));
    assert_eq!((profile[1].flops, profile[1].bytes), (Some(33 * 3 * 2), None));
    assert_eq!(profile[0].locations, ["toy: kernel 2"]);
    let mut state = session.new_state(1).unwrap();
    let ids = [4i32];
    let inputs = [("input_ids", TensorRef::new(&[1, 1], &ids).unwrap())];
    let (_, profile) = session.run_profiled("step", Some((&mut state, 1)), &inputs).unwrap();
    assert_eq!((profile[0].recurrence.as_str(), state.position()), ("diag", 1));
}

#[test]
fn selftest_measures_the_worst_error() {
    let right = toy::session().selftest().unwrap();
    assert_eq!(right.len(), 2);
    assert!(right.iter().all(|output| output.passed() && output.worst_error == 0.0));
    let artifact = toy::Toy::write(toy::manifest(), toy::golden(17)).open();
    let wrong = ssmc_runtime::Session::new(&artifact, &toy::options()).unwrap().selftest().unwrap();
    assert!(wrong[0].passed() && !wrong[1].passed());
    assert_eq!((wrong[1].worst_error, wrong[1].worst_ratio), (2.0, 4.0));
    assert_eq!((wrong[1].program.as_str(), wrong[1].call, wrong[1].output.as_str()), ("step", 1, "logits"));
}

#[test]
fn the_plan_holds_the_largest_sizes() {
    let session = toy::session();
    // add_twice: n up to 2^20; forward and packed need less.
    assert_eq!(session.arena_bytes(), 4 << 20);
    let fewer = SessionOptions { maxima: vec![("n".into(), 100)], ..toy::options() };
    // forward: 8 tokens and 3 sequences of 4 bytes, a slot each; add_twice: 400 bytes, rounded up.
    assert_eq!(toy::session_with(&fewer).arena_bytes(), 448);
    assert_eq!(session.maximum("batch"), Some(3));
    assert_eq!(session.maximum("seq_len"), Some(8));
}

#[derive(Default)]
struct Recorder(Vec<(usize, Vec<f32>)>);

impl Recorder {
    fn record(&mut self, launch: &LaunchView<'_>) {
        let y = launch.args[2][..4 * launch.dims[0] as usize].chunks_exact(4);
        let y = y.map(|bytes| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        self.0.push((launch.launch, y.collect()));
    }
}

impl LaunchObserver for Recorder {
    fn before(&mut self, launch: &LaunchView<'_>) {
        self.record(launch);
    }

    fn after(&mut self, launch: &LaunchView<'_>) {
        self.record(launch);
    }
}

#[test]
fn observers_see_memory_before_and_after_each_launch() {
    let mut session = toy::session();
    let (a, b) = ([1.0f32, 2.0], [10.0f32, 20.0]);
    let inputs = [("a", TensorRef::new(&[2], &a).unwrap()), ("b", TensorRef::new(&[2], &b).unwrap())];
    let mut recorder = Recorder::default();
    session.run_observed("add_twice", None, &inputs, &mut recorder).unwrap();
    let expected = [(0, vec![0.0, 0.0]), (0, vec![11.0, 22.0]), (1, vec![0.0, 0.0]), (1, vec![21.0, 42.0])];
    assert_eq!(recorder.0, expected);
}
