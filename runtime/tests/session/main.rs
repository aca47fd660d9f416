//! Sessions over an artefact with hand-assembled kernels: no compiler takes part.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[cfg(target_arch = "x86_64")]
mod allocations;
#[cfg(target_arch = "x86_64")]
mod errors;
#[cfg(target_arch = "x86_64")]
mod programs;
#[cfg(target_arch = "x86_64")]
mod slots;
#[cfg(target_arch = "x86_64")]
mod states;
#[cfg(target_arch = "x86_64")]
mod toy;

#[cfg(not(target_arch = "x86_64"))]
#[test]
#[ignore = "the kernels of these tests are x86-64 machine code"]
fn sessions_run_on_x86_64() {}
