//! Faults as data.

use std::fmt;

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The input is used, but something about it deserves attention.
    Warning,
    /// The input is refused.
    Error,
}

/// One fault, with a stable code for tests and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable and dotted by `::`, such as `ssmc::import::unsupported_op`.
    pub code: &'static str,
    /// Where: file, node or tensor; empty if the whole input is meant.
    pub place: String,
    /// What was expected and what was found; lower case, no full stop.
    pub message: String,
}

impl Diagnostic {
    /// A fault that makes the input unusable.
    pub fn error(code: &'static str, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, place: place.into(), message: message.into() }
    }

    /// A remark on an input that is used all the same.
    pub fn warning(code: &'static str, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, code, place: place.into(), message: message.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            write!(f, "{} [{}]", self.message, self.code)
        } else {
            write!(f, "{}: {} [{}]", self.place, self.message, self.code)
        }
    }
}
