//! One fault of a node or tensor, before it is placed.

use ssmc_ir::{Diagnostic, Severity, TensorType};

/// What is wrong with one node, tensor or value; the importer adds the place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("attribute {name:?}: expected {expected}, found {found}")]
    Attribute { name: String, expected: String, found: String },
    #[error("missing attribute {name:?}")]
    MissingAttribute { name: &'static str },
    #[error("unknown attribute {name:?}")]
    UnknownAttribute { name: String },
    #[error("input {idx}: expected {expected}, found {found}")]
    Input { idx: usize, expected: String, found: String },
    #[error("missing input {idx}")]
    MissingInput { idx: usize },
    #[error("expected {expected} outputs, found {found}")]
    OutputCount { expected: String, found: usize },
    #[error("expected {expected} inputs, found {found}")]
    InputCount { expected: String, found: usize },
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch { what: String, expected: String, found: String },
    #[error("shapes {a} and {b} do not broadcast")]
    Broadcast { a: TensorType, b: TensorType },
    #[error("input {idx} must be known when compiling: {what}")]
    NotKnown { idx: usize, what: &'static str },
    #[error("{0} must be known when compiling")]
    Unknown(String),
    #[error("cannot prove that {0}")]
    Unproven(String),
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error("{what}: exceeds the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
    #[error("{0}")]
    Ir(String),
}

impl Fault {
    /// Whether the model may be valid and only ssmc cannot take it.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Unsupported(_)
                | Self::Unproven(_)
                | Self::NotKnown { .. }
                | Self::Unknown(_)
                | Self::Limit { .. }
        )
    }

    /// The stable code of this kind of fault.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Attribute { .. } | Self::MissingAttribute { .. } | Self::UnknownAttribute { .. } => {
                "ssmc::import::attribute"
            }
            Self::Input { .. } | Self::MissingInput { .. } | Self::InputCount { .. } => "ssmc::import::input",
            Self::OutputCount { .. } => "ssmc::import::output",
            Self::Mismatch { .. } => "ssmc::import::mismatch",
            Self::Broadcast { .. } => "ssmc::import::broadcast",
            Self::NotKnown { .. } | Self::Unknown(_) => "ssmc::import::unsupported_data_dependent",
            Self::Unproven(_) => "ssmc::import::unsupported_unproven",
            Self::Unsupported(_) => "ssmc::import::unsupported",
            Self::Limit { .. } => "ssmc::import::unsupported_limit",
            Self::Ir(_) => "ssmc::import::type",
        }
    }

    /// The fault at a place.
    pub(crate) fn at(&self, place: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code: self.code(),
            place: place.into(),
            message: self.to_string(),
        }
    }
}
