//! Kernel IR to kernel IR: replaces what a target cannot execute by what it can.
//!
//! The result is an ordinary kernel, so the interpreter runs it, and it computes the same bits as the machine
//! code emitted from it.

pub mod cpu;
pub mod half;
pub mod math;
