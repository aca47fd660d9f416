//! Scans over the threads of a block, for any monoid.
//!
//! Three levels, one file each. Every thread composes its consecutive items one after the other ([`thread`]); the
//! threads of a warp scan their results by shuffles ([`warp`]); the warps of a block exchange their totals through
//! shared memory ([`block`]):
//!
//! ```text
//! items     | t0 t0 t0 | t1 t1 t1 | ... | t31 ..  || t32 ..  |        thread::reduce
//! threads   |    x0    |    x1    | ... |   x31   ||   x32   |        warp::inclusive: log2(32) shuffles
//! warps     |              total 0                || total 1 |        block::exclusive: shared memory, one barrier
//! ```
//!
//! What a thread gets back is the composition of everything before it; with it the thread goes through its items a
//! second time ([`thread::replay`]).

pub mod block;
#[cfg(test)]
pub(crate) mod faults;
mod monoid;
#[cfg(test)]
mod tests;
pub mod thread;
pub mod warp;

pub use monoid::{Action, Affine, Monoid, Segmented};

use crate::kernel::{KernelBuilder, Reg};

/// Register by register, `on_true` where `cond` holds.
fn choose(b: &mut KernelBuilder, cond: Reg, on_true: &[Reg], on_false: &[Reg]) -> Vec<Reg> {
    on_true.iter().zip(on_false).map(|(t, f)| b.select(cond, *t, *f)).collect()
}
