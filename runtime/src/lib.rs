//! Loads and executes ssmc artefacts.
//!
//! [`Artifact`] maps a file and checks it. [`Session`] picks the code level that the machine can run (with the feature
//! `cuda` also PTX, if there is a GPU), plans
//! all memory for a greatest batch and length, and runs the artefact's programs. [`State`] holds the
//! recurrent state of a batch of sequences: it can be cloned, saved, loaded and rolled back. [`Slots`] hold those of
//! sequences that come and go and decode together.
//!
//! ```no_run
//! use ssmc_runtime::{Artifact, Session, SessionOptions};
//!
//! let artifact = Artifact::open("model.ssmc")?;
//! let mut session = Session::new(&artifact, &SessionOptions::default())?;
//! let mut state = session.new_state(1)?;
//! let logits = session.prefill(&mut state, &[1, 2, 3])?;
//! let next = session.step(&mut state, &[4])?;
//! # let _ = (logits, next);
//! # Ok::<(), ssmc_runtime::RuntimeError>(())
//! ```
#![warn(missing_docs)]

mod artifact;
mod code;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
mod level;
mod lm;
mod machine;
mod memory;
mod observe;
mod plan;
mod pool;
mod profile;
mod selftest;
mod session;
mod state;
mod symbols;
mod tensor;

pub use artifact::Artifact;
#[cfg(feature = "cuda")]
pub use cuda::{GpuError, GpuFacts};
pub use error::RuntimeError;
pub use machine::{DotRates, MachineRates};
pub use observe::{LaunchObserver, LaunchView};
pub use profile::LaunchProfile;
pub use selftest::SelftestOutput;
pub use session::{Gemm, GpuCode, Outputs, Session, SessionOptions};
pub use ssmc_artifact::{ArtifactError, DType, Manifest};
pub use state::State;
pub use state::slots::{SlotId, Slots};
pub use tensor::{Element, Tensor, TensorError, TensorMut, TensorRef};
