//! Kernel IR to kernel IR: replaces what a target cannot execute by what it can.
//!
//! The result is an ordinary kernel, so the interpreter runs it, and it computes the same bits as the machine
//! code emitted from it.

pub mod cpu;
mod expand;
mod fma;
pub mod gpu;
pub mod half;
pub mod math;
mod unused;
mod walk;

use thiserror::Error;

/// A construct that a target cannot execute.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LegalizeError {
    #[error("kernel `{kernel}` has {threads} threads per block, a CPU kernel has 1")]
    Threads { kernel: String, threads: u32 },
    #[error("kernel `{kernel}` uses {construct}, which {target} do not have")]
    Unsupported { kernel: String, construct: &'static str, target: &'static str },
}
