//! What a pass is.

use ssmc_ir::edit::EditError;
use ssmc_ir::{BuildError, Graph, InterpError, Model};
use std::fmt;

/// Whether a pass did anything. "Did not apply" is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The graph is as it was.
    No,
    /// The graph is another one.
    Yes,
}

impl Changed {
    /// Puts `graph` in place of that of the model and says whether they differ.
    pub fn replace(model: &mut Model, graph: Graph) -> Self {
        let changed = if model.graph == graph { Self::No } else { Self::Yes };
        model.graph = graph;
        changed
    }

    /// Whether something changed.
    pub fn is_yes(self) -> bool {
        self == Self::Yes
    }
}

/// Why a raised form is known to equal what it replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// Proved from the structure of the graph.
    Structural,
    /// Compared on numbers.
    Numeric,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Structural => "structural",
            Self::Numeric => "numeric",
        })
    }
}

/// What a remark is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemarkKind {
    /// A recurrence became scan ops.
    Raised {
        /// How that was proved.
        evidence: Evidence,
        /// The number of scan ops.
        scans: usize,
    },
    /// A recurrence stays as it is.
    Kept {
        /// What stands in the way.
        reason: String,
    },
    /// An output is the next value of an input: the same memory may hold both.
    State {
        /// The input's name.
        input: String,
        /// The output's name.
        output: String,
    },
}

/// Something that a person may want to know about one place of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The pass that says it.
    pub pass: &'static str,
    /// The node, as its source location describes it.
    pub place: String,
    /// What happened.
    pub kind: RemarkKind,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            RemarkKind::Raised { evidence, scans } => {
                write!(f, "{}: raised to {scans} scan ops ({evidence}) [{}]", self.place, self.pass)
            }
            RemarkKind::Kept { reason } => write!(f, "{}: not raised: {reason} [{}]", self.place, self.pass),
            RemarkKind::State { input, output } => {
                write!(
                    f,
                    "{}: output {output:?} is the next state of input {input:?} [{}]",
                    self.place, self.pass
                )
            }
        }
    }
}

/// What passes leave behind beside the model.
#[derive(Clone, Debug, Default)]
pub struct PassCtx {
    /// Remarks in the order in which they were made.
    pub remarks: Vec<Remark>,
}

/// Why a pass failed. The model is as it was before the pass.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The graph cannot be rebuilt.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A constant has no value.
    #[error("folding constants: {0}")]
    Fold(#[from] InterpError),
}

impl From<BuildError> for PassError {
    fn from(error: BuildError) -> Self {
        Self::Edit(error.into())
    }
}

/// A transformation of a model that keeps its meaning.
pub trait Pass: Sync {
    /// Unique, in kebab case.
    fn name(&self) -> &'static str;

    /// Transforms the model.
    ///
    /// # Errors
    /// The graph is not valid, or a constant has no value.
    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError>;
}
