//! Plans -> kernels -> artefact.
//!
//! [`Kernels::lower`] turns the plans of all programs into launch lists over one set of kernels, equal kernels
//! stored once; [`write()`] compiles the kernels for every level and writes the file.

mod convert;
mod in_place;
mod kernels;
mod packing;
mod recurrence;
mod write;

pub use convert::{Symbols, dtype};
pub use kernels::{AssembleError, KernelEntry, Kernels, LaunchEntry, ProgramEntry, StoredWeight};
pub use packing::{PANEL, Packing};
pub use write::{ArtifactInput, OnDone, WriteError, legal, write};

use ssmc_ir::{Plan, Weights};

/// One program to compile.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct ProgramInput<'a> {
    pub name: &'a str,
    pub plan: &'a Plan,
    /// The plan for GPUs, if it is another one: with other types between kernels.
    pub gpu_plan: Option<&'a Plan>,
    pub weights: &'a Weights,
    /// Inputs and outputs of these names are the recurrent state.
    pub states: &'a [String],
}
