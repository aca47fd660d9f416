//! Integer expressions over symbols: building, checking, evaluating, printing.

use std::fmt;
use std::ops::{Add, Mul};

use crate::proto::{Expr, ExprOp, Symbol};

/// How deep expressions may nest; deeper ones are refused by [`Expr::check`].
pub const MAX_EXPR_DEPTH: usize = 32;

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    /// The result does not fit 64 bits.
    #[error("expression overflows 64-bit integers")]
    Overflow,
    /// A divisor is zero or negative.
    #[error("expression divides by {found}, expected a positive divisor")]
    Divisor {
        /// The divisor.
        found: i64,
    },
    /// The symbol index is out of range.
    #[error("expression names symbol {index}, expected less than {count}")]
    UnknownSymbol {
        /// The index in the expression.
        index: i64,
        /// Number of symbols.
        count: usize,
    },
    /// The operator is not one of [`ExprOp`].
    #[error("unknown expression operator {found}")]
    UnknownOp {
        /// The operator's number.
        found: i32,
    },
    /// The operator has the wrong number of operands.
    #[error("expression operator {op:?} has {found} operands")]
    Arity {
        /// The operator.
        op: ExprOp,
        /// Number of operands.
        found: usize,
    },
    /// The expression nests deeper than [`MAX_EXPR_DEPTH`].
    #[error("expression nests deeper than {MAX_EXPR_DEPTH}")]
    TooDeep,
}

impl Expr {
    /// The constant `value`.
    pub fn constant(value: i64) -> Self {
        Self { op: ExprOp::Const.into(), value, operands: Vec::new() }
    }

    /// The symbol with index `symbol` in the manifest.
    pub fn symbol(symbol: u32) -> Self {
        Self { op: ExprOp::Symbol.into(), value: symbol.into(), operands: Vec::new() }
    }

    /// `self / divisor` rounded towards minus infinity.
    pub fn floor_div(self, divisor: Self) -> Self {
        Self::apply(ExprOp::FloorDiv, self, divisor)
    }

    /// `self / divisor` rounded towards plus infinity.
    pub fn ceil_div(self, divisor: Self) -> Self {
        Self::apply(ExprOp::CeilDiv, self, divisor)
    }

    /// `self` modulo `divisor`, never negative.
    pub fn modulo(self, divisor: Self) -> Self {
        Self::apply(ExprOp::Mod, self, divisor)
    }

    /// The lesser of both.
    pub fn min(self, other: Self) -> Self {
        Self::apply(ExprOp::Min, self, other)
    }

    /// The greater of both.
    pub fn max(self, other: Self) -> Self {
        Self::apply(ExprOp::Max, self, other)
    }

    /// The value, if the expression is a constant.
    pub fn as_constant(&self) -> Option<i64> {
        (self.op == i32::from(ExprOp::Const) && self.operands.is_empty()).then_some(self.value)
    }

    /// The symbol's index, if the expression is a symbol and nothing else.
    pub fn as_symbol(&self) -> Option<usize> {
        if self.op == i32::from(ExprOp::Symbol) { usize::try_from(self.value).ok() } else { None }
    }

    /// Calls `visit` with the index of each symbol in the expression, once per occurrence.
    pub fn visit_symbols(&self, visit: &mut impl FnMut(usize)) {
        if let Some(index) = self.as_symbol() {
            visit(index);
        }
        self.operands.iter().for_each(|operand| operand.visit_symbols(visit));
    }

    fn apply(op: ExprOp, lhs: Self, rhs: Self) -> Self {
        let folds = lhs.as_constant().is_some() && rhs.as_constant().is_some();
        let associative = matches!(op, ExprOp::Add | ExprOp::Mul | ExprOp::Min | ExprOp::Max);
        let mut operands = Vec::with_capacity(2);
        for side in [lhs, rhs] {
            if associative && side.op == i32::from(op) {
                operands.extend(side.operands);
            } else {
                operands.push(side);
            }
        }
        let expr = Self { op: op.into(), value: 0, operands };
        if folds && let Ok(value) = expr.eval(&[]) { Self::constant(value) } else { expr }
    }

    /// The operator and its operand count, checked.
    fn checked_op(&self) -> Result<ExprOp, ExprError> {
        let op = ExprOp::try_from(self.op).map_err(|_| ExprError::UnknownOp { found: self.op })?;
        let found = self.operands.len();
        let fits = match op {
            ExprOp::Const | ExprOp::Symbol => found == 0,
            ExprOp::Add | ExprOp::Mul | ExprOp::Min | ExprOp::Max => found >= 1,
            ExprOp::FloorDiv | ExprOp::CeilDiv | ExprOp::Mod => found == 2,
        };
        if fits { Ok(op) } else { Err(ExprError::Arity { op, found }) }
    }

    fn symbol_value<T: Copy>(&self, values: &[T]) -> Result<T, ExprError> {
        let unknown = ExprError::UnknownSymbol { index: self.value, count: values.len() };
        self.as_symbol().and_then(|index| values.get(index)).copied().ok_or(unknown)
    }

    /// Checks operators, operand counts, symbol indices and depth.
    pub fn check(&self, n_symbols: usize) -> Result<(), ExprError> {
        self.check_at(n_symbols, 1)
    }

    fn check_at(&self, n_symbols: usize, depth: usize) -> Result<(), ExprError> {
        if depth > MAX_EXPR_DEPTH {
            return Err(ExprError::TooDeep);
        }
        if self.checked_op()? == ExprOp::Symbol && self.as_symbol().is_none_or(|index| index >= n_symbols) {
            return Err(ExprError::UnknownSymbol { index: self.value, count: n_symbols });
        }
        self.operands.iter().try_for_each(|operand| operand.check_at(n_symbols, depth + 1))
    }

    /// The value when symbol `i` is `symbols[i]`.
    pub fn eval(&self, symbols: &[i64]) -> Result<i64, ExprError> {
        let op = self.checked_op()?;
        let operand = |index: usize| self.operands[index].eval(symbols);
        let fold = |combine: fn(i64, i64) -> Option<i64>| {
            let mut acc = operand(0)?;
            for index in 1..self.operands.len() {
                acc = combine(acc, operand(index)?).ok_or(ExprError::Overflow)?;
            }
            Ok(acc)
        };
        match op {
            ExprOp::Const => Ok(self.value),
            ExprOp::Symbol => self.symbol_value(symbols),
            ExprOp::Add => fold(i64::checked_add),
            ExprOp::Mul => fold(i64::checked_mul),
            ExprOp::Min => fold(|a, b| Some(a.min(b))),
            ExprOp::Max => fold(|a, b| Some(a.max(b))),
            ExprOp::FloorDiv => floor_div(operand(0)?, operand(1)?),
            ExprOp::CeilDiv => ceil_div(operand(0)?, operand(1)?),
            ExprOp::Mod => {
                let (value, divisor) = (operand(0)?, operand(1)?);
                floor_div(value, divisor).map(|_| value.rem_euclid(divisor))
            }
        }
    }

    /// An interval that holds the value for all symbols within `ranges` (both ends included).
    ///
    /// The bounds are safe, not always tight: operands are treated as independent of each other.
    pub fn range(&self, ranges: &[(i64, i64)]) -> Result<(i64, i64), ExprError> {
        let op = self.checked_op()?;
        let operand = |index: usize| self.operands[index].range(ranges);
        let fold = |combine: fn(Range, Range) -> Option<Range>| {
            let mut acc = operand(0)?;
            for index in 1..self.operands.len() {
                acc = combine(acc, operand(index)?).ok_or(ExprError::Overflow)?;
            }
            Ok(acc)
        };
        match op {
            ExprOp::Const => Ok((self.value, self.value)),
            ExprOp::Symbol => self.symbol_value(ranges),
            ExprOp::Add => fold(|a, b| Some((a.0.checked_add(b.0)?, a.1.checked_add(b.1)?))),
            ExprOp::Mul => fold(mul_ranges),
            ExprOp::Min => fold(|a, b| Some((a.0.min(b.0), a.1.min(b.1)))),
            ExprOp::Max => fold(|a, b| Some((a.0.max(b.0), a.1.max(b.1)))),
            ExprOp::FloorDiv => corners(operand(0)?, operand(1)?, floor_div),
            ExprOp::CeilDiv => corners(operand(0)?, operand(1)?, ceil_div),
            ExprOp::Mod => mod_range(operand(0)?, operand(1)?),
        }
    }

    /// The expression with the symbols' names.
    pub fn display<'a>(&'a self, symbols: &'a [Symbol]) -> impl fmt::Display + 'a {
        Named { expr: self, symbols }
    }
}

type Range = (i64, i64);

fn positive(divisor: i64) -> Result<i64, ExprError> {
    if divisor > 0 { Ok(divisor) } else { Err(ExprError::Divisor { found: divisor }) }
}

fn floor_div(value: i64, divisor: i64) -> Result<i64, ExprError> {
    Ok(value.div_euclid(positive(divisor)?))
}

fn ceil_div(value: i64, divisor: i64) -> Result<i64, ExprError> {
    let quotient = floor_div(value, divisor)?;
    Ok(if value.rem_euclid(divisor) == 0 { quotient } else { quotient + 1 })
}

fn mul_ranges(a: Range, b: Range) -> Option<Range> {
    let products =
        [a.0.checked_mul(b.0)?, a.0.checked_mul(b.1)?, a.1.checked_mul(b.0)?, a.1.checked_mul(b.1)?];
    Some((*products.iter().min()?, *products.iter().max()?))
}

fn corners(a: Range, b: Range, div: fn(i64, i64) -> Result<i64, ExprError>) -> Result<Range, ExprError> {
    let ends = [div(a.0, b.0)?, div(a.0, b.1)?, div(a.1, b.0)?, div(a.1, b.1)?];
    let low = ends.iter().fold(i64::MAX, |acc, &end| acc.min(end));
    let high = ends.iter().fold(i64::MIN, |acc, &end| acc.max(end));
    Ok((low, high))
}

fn mod_range(value: Range, divisor: Range) -> Result<Range, ExprError> {
    positive(divisor.0)?;
    if value.0 >= 0 && value.1 < divisor.0 {
        return Ok(value);
    }
    let high = if value.0 >= 0 { value.1.min(divisor.1 - 1) } else { divisor.1 - 1 };
    Ok((0, high))
}

impl From<i64> for Expr {
    fn from(value: i64) -> Self {
        Self::constant(value)
    }
}

impl Add for Expr {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        match (self.as_constant(), other.as_constant()) {
            (Some(0), _) => other,
            (_, Some(0)) => self,
            _ => Self::apply(ExprOp::Add, self, other),
        }
    }
}

impl Mul for Expr {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        match (self.as_constant(), other.as_constant()) {
            (Some(1), _) => other,
            (_, Some(1)) => self,
            _ => Self::apply(ExprOp::Mul, self, other),
        }
    }
}

impl fmt::Display for Expr {
    /// Symbols print as `s0`, `s1`, ...; see [`Expr::display`] for names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.display(&[]).fmt(f)
    }
}

struct Named<'a> {
    expr: &'a Expr,
    symbols: &'a [Symbol],
}

impl Named<'_> {
    fn operand(&self, f: &mut fmt::Formatter<'_>, index: usize, nested: bool) -> fmt::Result {
        let Some(expr) = self.expr.operands.get(index) else { return f.write_str("?") };
        let infix = [ExprOp::Add, ExprOp::Mul].map(i32::from).contains(&expr.op);
        let operand = Named { expr, symbols: self.symbols };
        if nested && infix { write!(f, "({operand})") } else { write!(f, "{operand}") }
    }

    fn infix(&self, f: &mut fmt::Formatter<'_>, separator: &str) -> fmt::Result {
        for index in 0..self.expr.operands.len() {
            if index > 0 {
                f.write_str(separator)?;
            }
            self.operand(f, index, true)?;
        }
        Ok(())
    }

    fn call(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        write!(f, "{name}(")?;
        for index in 0..self.expr.operands.len() {
            if index > 0 {
                f.write_str(", ")?;
            }
            self.operand(f, index, false)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ExprOp::try_from(self.expr.op) {
            Ok(ExprOp::Const) => write!(f, "{}", self.expr.value),
            Ok(ExprOp::Symbol) => match self.expr.as_symbol().and_then(|index| self.symbols.get(index)) {
                Some(symbol) => f.write_str(&symbol.name),
                None => write!(f, "s{}", self.expr.value),
            },
            Ok(ExprOp::Add) => self.infix(f, " + "),
            Ok(ExprOp::Mul) => self.infix(f, "*"),
            Ok(ExprOp::FloorDiv) => self.call(f, "floordiv"),
            Ok(ExprOp::CeilDiv) => self.call(f, "ceildiv"),
            Ok(ExprOp::Mod) => self.call(f, "mod"),
            Ok(ExprOp::Min) => self.call(f, "min"),
            Ok(ExprOp::Max) => self.call(f, "max"),
            Err(_) => write!(f, "op{}", self.expr.op),
        }
    }
}

#[cfg(test)]
mod tests;
