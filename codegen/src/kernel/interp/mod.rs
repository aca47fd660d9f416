//! Interpreter: the meaning of a kernel, executable without its target.
//!
//! Runs blocks one after the other and the threads of a block in lockstep under masks. Besides computing, it
//! reports what a machine would let pass: accesses out of bounds, reads of shared or local memory that was
//! never written, races between the threads of a block that no barrier separates, races on global memory
//! between blocks, barriers and warp operations that not all threads reach, and integer faults.
//!
//! `f32` arithmetic is done in `f32`, so a legalized kernel gives the bits of its machine code.

mod eval;
mod exec;
mod memory;
#[cfg(test)]
mod tests;

use std::ops::Range;

use thiserror::Error;

pub use eval::{erf, math, pow};

use super::verify::{Fault, Path, verify};
use super::*;

/// Where a parameter's buffer starts: a position in one of the buffers given to [`Interpreter::run`].
/// Parameters may share a buffer and overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    pub buffer: usize,
    pub byte_offset: usize,
}

impl Arg {
    /// The start of a buffer.
    pub const fn start(buffer: usize) -> Arg {
        Arg { buffer, byte_offset: 0 }
    }
}

/// Why a kernel did not run to its end. Buffers keep what was written so far.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum InterpError {
    #[error("{} faults in kernel `{kernel}`, the first: {}", faults.len(), faults[0])]
    Invalid { kernel: String, faults: Vec<Fault> },
    #[error("kernel `{kernel}` has {expected} {what}, {found} given")]
    Count { kernel: String, what: &'static str, expected: usize, found: usize },
    #[error("argument `{name}`: buffer {buffer} at byte {byte_offset} is absent, too short or misaligned")]
    BadArg { name: String, buffer: usize, byte_offset: usize },
    #[error("kernel `{kernel}`, block {block}, {path}: {fault}")]
    Fault { kernel: String, block: i64, path: Path, fault: RunFault },
}

/// What went wrong in a statement.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RunFault {
    #[error("thread {thread} touches element {index} of `{name}`, which has {len}")]
    OutOfBounds { name: String, index: i64, len: usize, thread: u32 },
    #[error("thread {thread} reads element {index} of `{name}`, which was not written")]
    Unwritten { name: String, index: usize, thread: u32 },
    #[error("thread {thread} touches element {index} of `{name}` while an async copy to it is under way")]
    AsyncPending { name: String, index: usize, thread: u32 },
    #[error("element {index} of `{name}` is overwritten while a product of a warp group reads it")]
    GroupReading { name: String, index: usize },
    #[error("%{0} is used while a product of a warp group adds to it")]
    GroupPending(u32),
    #[error("product of a warp group reached by only some of its threads")]
    DivergentGroup,
    #[error(
        "product of a warp group at element {index} of `{name}`, expected a multiple of 16 below 64 past one of 512"
    )]
    GroupIndex { name: String, index: i64 },
    #[error("race of threads on element {index} of `{name}`")]
    ThreadRace { name: String, index: usize },
    #[error("race of blocks on element {index} of `{name}`")]
    BlockRace { name: String, index: usize },
    #[error("barrier reached by only some threads")]
    DivergentBarrier,
    #[error("warp operation reached by only some threads of warp {warp}")]
    DivergentWarp { warp: u32 },
    #[error("index, stride or amount of a warp operation differs among the threads of warp {warp}")]
    NonUniformOperand { warp: u32 },
    #[error("async copy to or from element {index} of `{name}` is misaligned")]
    Misaligned { name: String, index: i64 },
    #[error("integer division by zero, or overflow in division")]
    BadDivision,
    #[error("shift by an amount outside the width")]
    BadShift,
}

/// A verified kernel, ready to run any number of times.
#[derive(Clone, Copy, Debug)]
pub struct Interpreter<'k> {
    kernel: &'k Kernel,
}

impl<'k> Interpreter<'k> {
    /// # Errors
    /// [`InterpError::Invalid`] with the faults the verifier finds.
    pub fn new(kernel: &'k Kernel) -> Result<Interpreter<'k>, InterpError> {
        match verify(kernel) {
            Ok(()) => Ok(Interpreter { kernel }),
            Err(faults) => Err(InterpError::Invalid { kernel: kernel.name.clone(), faults }),
        }
    }

    /// Runs `blocks` of the grid. `args[i]` and `dims[i]` belong to the i-th param and dim. A parameter reaches
    /// to the end of its buffer.
    ///
    /// # Errors
    /// Arguments that do not fit the kernel, or the first fault met.
    pub fn run(
        &self,
        blocks: Range<i64>,
        dims: &[i64],
        args: &[Arg],
        buffers: &mut [&mut [u8]],
    ) -> Result<(), InterpError> {
        let k = self.kernel;
        let count =
            |what, expected, found| InterpError::Count { kernel: k.name.clone(), what, expected, found };
        if dims.len() != k.dims.len() {
            return Err(count("dims", k.dims.len(), dims.len()));
        }
        if args.len() != k.params.len() {
            return Err(count("params", k.params.len(), args.len()));
        }
        for (param, arg) in k.params.iter().zip(args) {
            let fits = buffers.get(arg.buffer).is_some_and(|b| arg.byte_offset <= b.len());
            if !fits || !arg.byte_offset.is_multiple_of(param.elem.size()) {
                let (buffer, byte_offset) = (arg.buffer, arg.byte_offset);
                return Err(InterpError::BadArg { name: param.name.clone(), buffer, byte_offset });
            }
        }
        exec::run(k, blocks, dims, args, buffers)
    }
}
