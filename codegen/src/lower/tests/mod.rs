//! Every lowering against the reference interpreter: problems per op family, each lowered for several CPU levels and
//! run as kernel, as legalized kernel and, with LLVM, as machine code.

mod elementwise;
mod fuzz;
mod long;
mod loops;
#[cfg(feature = "llvm")]
mod machine;
mod matrix;
mod memory;
mod mixers;
mod problem;
mod products;
mod recurrences;
mod rows;
mod scatter;
