//! Why an op does not fit its operands.

use crate::types::DType;

/// Why operands or attributes do not fit an op.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum OpError {
    #[error("expected {expected} operands, found {found}")]
    Arity { expected: usize, found: usize },
    #[error("operand {operand} is missing")]
    Missing { operand: &'static str },
    #[error("operand {operand}: expected element type {expected}, found {found}")]
    DType { operand: &'static str, expected: String, found: DType },
    #[error("operand {operand}: expected {expected} axes, found {found}")]
    Rank { operand: &'static str, expected: usize, found: usize },
    #[error("operand {operand}: expected shape {expected}, found {found}")]
    Shape { operand: &'static str, expected: String, found: String },
    #[error("attribute {attribute}: {message}")]
    Attribute { attribute: &'static str, message: String },
    #[error("region {region}: {message}")]
    Region { region: &'static str, message: String },
}

impl OpError {
    pub(super) fn attr(attribute: &'static str, message: impl Into<String>) -> Self {
        Self::Attribute { attribute, message: message.into() }
    }

    pub(super) fn shape(
        operand: &'static str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Shape { operand, expected: expected.to_string(), found: found.to_string() }
    }

    pub(super) fn dtype(operand: &'static str, expected: impl std::fmt::Display, found: DType) -> Self {
        Self::DType { operand, expected: expected.to_string(), found }
    }
}
