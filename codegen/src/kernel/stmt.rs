//! Structured statements.

use super::{Reg, inst::Inst};

/// A statement runs where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    Inst(Inst),
    For(For),
    If(If),
}

/// `for var in lo..hi step step { body }`.
///
/// `var`, `lo` and `hi` are `i64` scalars; `lo` and `hi` are read once, before the first iteration. The body
/// must not assign `var`, which has no value after the loop. `step` is positive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct For {
    pub var: Reg,
    pub lo: Reg,
    pub hi: Reg,
    pub step: i64,
    pub body: Vec<Stmt>,
}

/// `if cond { on_true } else { on_false }` with a scalar `bool` condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct If {
    pub cond: Reg,
    pub on_true: Vec<Stmt>,
    pub on_false: Vec<Stmt>,
}
