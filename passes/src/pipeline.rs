//! The passes in order, on one screen.

use crate::canonicalize::{Layout, Products, Repeat, Simplify, Split};
use crate::cse::Cse;
use crate::dce::Dce;
use crate::flatten::Flatten;
use crate::fold::Fold;
use crate::manager::Phase;
use crate::raise::{ChunkedScan, ComplexStep, LongConvs, OneStep, ScanLoop, Unrolled};
use ssmc_ir::Stage;

/// From `imported` to `canonical`.
pub const CANONICAL: Phase = Phase {
    stage: Stage::Canonical,
    passes: &[
        &Dce, &Simplify, &Fold, &Repeat, &Cse, &Products, &Split, &Products, &Dce, &Layout, &Products,
        &Simplify, &Cse, &Dce,
    ],
};

/// From `canonical` to `raised`.
pub const RAISED: Phase = Phase {
    stage: Stage::Raised,
    passes: &[
        &ChunkedScan,
        &Unrolled,
        &OneStep,
        &ScanLoop,
        &ComplexStep,
        &LongConvs,
        &Flatten,
        &Dce,
        &Simplify,
        &Fold,
        &Cse,
        &Products,
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
