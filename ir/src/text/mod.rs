//! The text form of graphs, `.ssm`. Printing and parsing are exact inverses.
//!
//! ```text
//! func @name(%x: f32[batch, 8], %1 "an input/name": i64[]) {
//!   !0 = "rule" [!module "a.b", !onnx "node" "Op" "output"]
//!   %2 = weight {name="w", shape=[4, 8]} : f32[4, 8]
//!   %3 = contract[bd,ed->be] %x, %2 : f32[batch, 4] !0
//!   %4, %5 = ssm.scan %a, %b, _, %s {reverse=true} : f32[batch, 4, 2], f32[batch, 2]
//!   return %3 "logits"
//! }
//! ```
//!
//! - A statement is results, op, operands by position (`_` where an optional one is absent
//!   before others), attributes, result types,
//!   regions, location. Result types are always there; attributes are sorted and those with default values left out;
//!   an unknown attribute is an error. Line ends mean nothing; `;` starts a comment.
//! - Values are numbers or names. An input whose name is no identifier is a number followed by the name.
//! - Extents are polynomials as [`Dim`](crate::Dim) prints them. A symbol that is no identifier stands in quotes.
//! - A literal tensor is a list of numbers if it is short and they say exactly its bytes, else its bytes in hexadecimal.
//! - Locations: `!onnx "node" "op" "output"`, `!module "path"`, `!text 3:14`, and `!0` for a derived one, which a line
//!   at the head of the function defines.
//! - Regions stand in braces after the types, each a function of its own.
//!
//! Weights lie beside the text in `FILE.weights.safetensors`; the text names them only.

mod dim;
mod lexer;
mod parser;
mod printer;

pub use parser::parse;

use crate::diag::Diagnostic;
use std::fmt;

/// The text is no graph of this syntax.
pub const SYNTAX: &str = "ssmc::text::syntax";

/// A fault at a place of a text. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct TextError {
    pub line: u32,
    pub column: u32,
    /// One of the codes of this module or of [`verify`](mod@crate::verify).
    pub code: &'static str,
    pub message: String,
}

impl TextError {
    /// The fault as a diagnostic about this file.
    pub fn diagnostic(&self, file: &str) -> Diagnostic {
        Diagnostic::error(self.code, format!("{file}:{}:{}", self.line, self.column), self.message.clone())
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for TextError {}

#[cfg(test)]
mod tests;
