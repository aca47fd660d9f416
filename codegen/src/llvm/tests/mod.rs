//! Tests of the CPU back end: images run in executable maps and are compared with the interpreter.

mod abi;
mod dots;
pub(crate) mod harness;
mod image;
mod kernels;
mod math;
mod ops;
mod random;
mod tiles;
