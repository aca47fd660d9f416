//! See ARCHITECTURE.md.

pub mod bisect;
pub mod compute;
pub mod names;
pub mod norms;
pub mod partition;
pub mod programs;
pub mod states;
pub mod stream;

pub mod egraph;
pub mod rules;

pub mod canonicalize;
pub mod cse;
pub mod dce;
pub mod flatten;
pub mod fold;
pub mod manager;
pub mod pass;
pub mod pipeline;
pub mod raise;
#[cfg(test)]
mod testing;
mod view;
pub mod weights;
