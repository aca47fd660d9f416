//! Thread-block kernels in the kernel interpreter, against the truth of the graph interpreter.

mod argmax;
mod chain;
mod conv1d;
mod faults;
mod library;
mod matmul;
mod norm;
mod partitioned;
mod problem;
mod rows;
mod seeded;
mod selective_scan;
mod ssd;
mod update;
mod usage;
mod widened;

use super::*;
use crate::kernel::Inst;
use crate::target::GpuArch;
use problem::Problem;
use ssmc_ir::{DType, ValueId};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Error relative to 1 and to the number itself that results of a type may have.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 2e-5,
    }
}

fn targets() -> [GpuTarget; 2] {
    GpuArch::ALL.map(GpuTarget::of_arch)
}

fn shared_bytes(lowered: &Lowered) -> u64 {
    lowered.kernel.shared.iter().filter(|a| a.over.is_none()).map(|a| a.bytes()).sum()
}

/// Bytes of the asynchronous copies, each size once.
fn copied_bytes(lowered: &Lowered) -> Vec<usize> {
    let found = RefCell::new(BTreeSet::new());
    faults::count(&lowered.kernel, &|inst| {
        if let Inst::AsyncCopy { src, elems, .. } = inst {
            found.borrow_mut().insert(lowered.kernel.mem_elem(*src).size() * usize::from(*elems));
        }
        false
    });
    found.into_inner().into_iter().collect()
}
