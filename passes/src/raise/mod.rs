//! Recurrences become scan ops.
//!
//! - `scan_loop`: loops whose carried values are first-order recurrences.

mod affine;
mod lift;
mod scan_loop;
mod trace;

#[cfg(test)]
mod tests;

pub use scan_loop::ScanLoop;
