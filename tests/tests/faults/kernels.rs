//! Faults in kernels of thread blocks: the interpreter reports them, or the numbers are wrong.

use super::{Fault, TOLERANCE, apply, error_over_peak, noise};
use ssmc_codegen::kernel::interp::{Arg, InterpError, Interpreter};
use ssmc_codegen::kernel::text::parse;

/// y[block] = sum of the block's 64 elements of x, of which the last block has fewer.
const BLOCK_SUM: &str = "kernel block_sum {
  block 64 1 1
  param x: f32 read
  param y: f32 write
  dim n
  shared partial: f32[64]

  %0.n: i64 = dim n
  %1.zero: i64 = const 0
  %2.width: i64 = const 64
  %3.tid: i64 = thread_idx x
  %4.block: i64 = block_idx
  %5.first: i64 = mul %4.block, %2.width
  %6.at: i64 = add %5.first, %3.tid
  %7.v: f32 = const 0.0
  %8.inside: bool = lt %6.at, %0.n
  if %8.inside {
    %7.v: f32 = load x[%6.at]
  }
  store partial[%3.tid], %7.v
  barrier
  %9.leader: bool = eq %3.tid, %1.zero
  if %9.leader {
    %10.sum: f32 = const 0.0
    for %11.i in %1.zero..%2.width step 1 {
      %12: f32 = load partial[%11.i]
      %10.sum: f32 = add %10.sum, %12
    }
    store y[%4.block], %10.sum
  }
}";

/// Elements of x: three blocks, the last one not full.
const N: usize = 150;
const BLOCKS: usize = 3;

pub(super) const FAULTS: &[Fault] = &[
    ("missing barrier", &[("  barrier\n", "")]),
    (
        "barrier that only some threads reach",
        &[
            ("  barrier\n", ""),
            (
                "  store partial[%3.tid], %7.v\n",
                "  store partial[%3.tid], %7.v\n  if %8.inside {\n    barrier\n  }\n",
            ),
        ],
    ),
    ("bound of the last block lost", &[("lt %6.at, %0.n", "ge %6.at, %1.zero")]),
    ("shared memory not written", &[("  store partial[%3.tid], %7.v\n", "")]),
    ("every thread writes the result", &[("eq %3.tid, %1.zero", "ge %3.tid, %1.zero")]),
    ("every block writes the same element", &[("store y[%4.block]", "store y[%1.zero]")]),
    ("blocks overlap", &[("%2.width: i64 = const 64", "%2.width: i64 = const 32")]),
    ("every second element skipped", &[("step 1", "step 2")]),
    ("accumulator not reset", &[("%10.sum: f32 = const 0.0", "%10.sum: f32 = copy %7.v")]),
    ("wrong element", &[("load partial[%11.i]", "load partial[%3.tid]")]),
];

fn run(text: &str) -> Result<Vec<f64>, InterpError> {
    let kernel = parse(text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    let x: Vec<u8> = noise(3, N).iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
    let (mut x, mut y) = (x, vec![0u8; 4 * BLOCKS]);
    Interpreter::new(&kernel)?.run(
        0..BLOCKS as i64,
        &[N as i64],
        &[Arg::start(0), Arg::start(1)],
        &mut [&mut x, &mut y],
    )?;
    let values = y.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    Ok(values.collect())
}

#[test]
fn the_kernel_is_right() {
    let x: Vec<f64> = noise(3, N);
    let sums: Vec<f64> = x.chunks(64).map(|block| block.iter().sum()).collect();
    assert!(error_over_peak(&run(BLOCK_SUM).unwrap(), &sums) < TOLERANCE);
}

#[test]
fn faults_of_a_thread_block_are_caught() {
    let truth = run(BLOCK_SUM).unwrap();
    for fault in FAULTS {
        if let Ok(found) = run(&apply(BLOCK_SUM, fault)) {
            let error = error_over_peak(&found, &truth);
            assert!(error > TOLERANCE, "{}: not caught, error {error:e}", fault.0);
        }
    }
}
