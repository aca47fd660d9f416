//! Text form of kernels: `Display` prints it, [`parse()`] reads it back exactly.
//!
//! ```text
//! kernel scale {
//!   block 1 1 1
//!   param x: f32 readwrite
//!   dim n
//!
//!   %0.n: i64 = dim n
//!   %1: i64 = const 0
//!   %2: f32x8 = const 0.5
//!   for %3.i in %1..%0.n step 8 {
//!     %4: f32x8 = load x[%3.i]
//!     %5: f32x8 = mul %4, %2
//!     store x[%3.i], %5
//!   }
//! }
//! ```
//!
//! A register is its number and, where it has one, its name; its type stands at each assignment. Registers
//! that no statement assigns are declared by `reg`. Floats are printed with as many digits as identify them, NaN
//! as its bits. Comments run from `//` to the end of the line.

mod lex;
mod names;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use parse::parse;

/// Why a text is no kernel, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{line}:{column}: {kind}")]
pub struct ParseError {
    pub line: usize,
    pub column: usize,
    pub kind: ParseErrorKind,
}

/// What the parser met.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseErrorKind {
    #[error("unexpected character {0:?}")]
    Character(char),
    #[error("expected {expected}, found {found}")]
    Expected { expected: String, found: String },
    #[error("no {what} is called `{name}`")]
    Unknown { what: &'static str, name: String },
    #[error("number {0} is out of range")]
    Number(String),
    #[error("%{reg} is {found} here, but {expected} elsewhere")]
    Inconsistent { reg: u32, expected: String, found: String },
    #[error("%{0} is assigned nowhere and not declared by `reg`")]
    Undeclared(u32),
    #[error("statements nested deeper than {0}")]
    Depth(usize),
}
