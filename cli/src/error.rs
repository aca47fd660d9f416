//! One error for the whole way from file to artefact.

use ssmc_codegen::assemble::{AssembleError, WriteError};
use ssmc_frontend::ImportError;
use ssmc_ir::InterpError;
use ssmc_ir::edit::EditError;
use ssmc_passes::egraph::RewriteError;
use ssmc_passes::manager::ManagerError;
use ssmc_passes::norms::FoldError;
use ssmc_passes::partition::PartitionError;
use ssmc_passes::stream::StreamError;
use ssmc_passes::weights::StoreError;
use ssmc_runtime::RuntimeError;

/// Why a model was not compiled or run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant says where the error comes from")]
pub enum Error {
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("storing weights: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Passes(#[from] ManagerError),
    #[error("no streaming form: {0}")]
    Stream(#[from] StreamError),
    #[error(
        "the model has programs that carry state already: {program} has {state:?}; leave out --streaming"
    )]
    HasState { program: &'static str, state: String },
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("folding norms: {0}")]
    Fold(#[from] FoldError),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("reference interpreter: {0}")]
    Interp(#[from] InterpError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}
