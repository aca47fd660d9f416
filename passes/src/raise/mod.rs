//! Recurrences become scan ops.
//!
//! - `causal_conv`: short convolutions over a history and the sequence.
//! - `chunked`: recurrences that are written out over chunks of steps, and parallel scans.
//! - `complex_step`: one step of a complex recurrence over pairs of real numbers.
//! - `linear`: parallel scans whose decays are constants.
//! - `long_conv`: convolutions along the sequence, most of them by Fourier transforms.
//! - `unroll`: recurrences that were written out step by step.
//! - `quotient`: quotients of running sums, for sequences of any length.
//! - `read_out`: products that read states take the axes of the scan.
//! - `merge`: scans of one sequence each.
//! - `stabilized`: weighted means with a running maximum, written out step by step.
//! - `scan_loop`: loops whose carried values are first-order recurrences, or matrices that are read by queries.

mod affine;
mod axes;
mod causal_conv;
mod chunked;
mod complex_step;
mod lift;
mod linear;
mod long_conv;
mod matrix;
mod merge;
mod order;
mod pairs;
mod product;
mod quotient;
mod read_out;
mod scan_loop;
mod stabilized;
mod trace;
mod unroll;

#[cfg(test)]
mod tests;

pub use causal_conv::CausalConvs;
pub use chunked::{ChunkedScan, ParallelScan};
pub use complex_step::ComplexStep;
pub use linear::LinearScan;
pub use long_conv::LongConvs;
pub use merge::MergeScans;
pub use quotient::Quotients;
pub use read_out::WholeSteps;
pub use scan_loop::ScanLoop;
pub use stabilized::Stabilized;
pub use unroll::{OneStep, Unrolled};
