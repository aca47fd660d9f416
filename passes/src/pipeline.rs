//! The passes in order, on one screen.

use crate::canonicalize::{Layout, Pieces, Products, Repeat, Simplify, Split};
use crate::cse::Cse;
use crate::dce::Dce;
use crate::flatten::{Branches, Flatten};
use crate::fold::Fold;
use crate::manager::Phase;
use crate::raise::{
    CausalConvs, ChunkedScan, ComplexStep, LinearScan, LongConvs, MergeScans, OneStep, ParallelScan,
    Quotients, ScanLoop, Stabilized, Unrolled, WholeSteps,
};
use ssmc_ir::Stage;

/// From `imported` to `canonical`.
pub const CANONICAL: Phase = Phase {
    stage: Stage::Canonical,
    passes: &[
        &Dce, &Simplify, &Fold, &Branches, &Repeat, &Cse, &Pieces, &Products, &Split, &Products, &Dce,
        &Layout, &Pieces, &Products, &Simplify, &Cse, &Dce,
    ],
};

/// From `canonical` to `raised`.
pub const RAISED: Phase = Phase {
    stage: Stage::Raised,
    passes: &[
        &ParallelScan,
        &ChunkedScan,
        &Quotients,
        &Unrolled,
        &OneStep,
        &ScanLoop,
        &ComplexStep,
        &LinearScan,
        &LongConvs,
        &CausalConvs,
        &Flatten,
        &Stabilized,
        &Dce,
        &Simplify,
        &Fold,
        &Cse,
        &MergeScans,
        &Products,
        &WholeSteps,
        &Dce,
        &Layout,
        &Products,
        &Simplify,
        &Cse,
        &Dce,
    ],
};

/// From `imported` to `raised`.
pub const PHASES: &[Phase] = &[CANONICAL, RAISED];
