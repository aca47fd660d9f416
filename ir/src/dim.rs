//! Extents: polynomials over symbols in a normal form.
//!
//! Two dims that are equal as polynomials are equal as values. Division, remainder, minimum and maximum are opaque
//! atoms of the polynomial, simplified where that is exact.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

/// The name of an extent that is known only at run time, such as `batch` or `seq_len`. Never negative.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// The symbol of this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain =
            self.0.chars().enumerate().all(|(i, c)| {
                c == '_' || c.is_ascii_alphabetic() || (i > 0 && (c.is_ascii_digit() || c == '.'))
            });
        let function = DimFn::ALL.iter().any(|f| f.name() == &*self.0);
        if plain && !self.0.is_empty() && !function {
            f.write_str(&self.0)
        } else {
            write!(f, "{:?}", &*self.0)
        }
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The values of the symbols at run time.
pub type Bindings = BTreeMap<Symbol, i64>;

/// A two-operand function that is not a polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DimFn {
    /// Quotient rounded towards minus infinity.
    FloorDiv,
    /// Quotient rounded towards plus infinity.
    CeilDiv,
    /// Remainder of the floor division, with the sign of the divisor.
    Mod,
    /// The smaller one.
    Min,
    /// The larger one.
    Max,
}

impl DimFn {
    /// Every function.
    pub const ALL: &'static [DimFn] = &[DimFn::FloorDiv, DimFn::CeilDiv, DimFn::Mod, DimFn::Min, DimFn::Max];

    /// The spelling in the text form.
    pub fn name(self) -> &'static str {
        match self {
            DimFn::FloorDiv => "floordiv",
            DimFn::CeilDiv => "ceildiv",
            DimFn::Mod => "mod",
            DimFn::Min => "min",
            DimFn::Max => "max",
        }
    }

    /// The function of two numbers; `None` on overflow or division by zero.
    pub fn apply(self, a: i64, b: i64) -> Option<i64> {
        let floor = |a: i64, b: i64| {
            let q = a.checked_div(b)?;
            Some(if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        };
        match self {
            DimFn::FloorDiv => floor(a, b),
            DimFn::CeilDiv => {
                let q = floor(a, b)?;
                Some(if q.checked_mul(b)? == a { q } else { q + 1 })
            }
            DimFn::Mod => a.checked_sub(floor(a, b)?.checked_mul(b)?),
            DimFn::Min => Some(a.min(b)),
            DimFn::Max => Some(a.max(b)),
        }
    }
}

/// An indivisible factor of a [`Dim`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Atom {
    /// A symbol.
    Symbol(Symbol),
    /// A function of two dims.
    Apply(DimFn, Dim, Dim),
}

/// A product of atoms, sorted, repeated for powers. Empty for the constant term.
pub type Monomial = Vec<Atom>;

/// An extent: an integer polynomial over [`Atom`]s.
///
/// Normal form: monomials strictly ascending, no zero coefficient. Arithmetic whose coefficients leave 64 bits gives
/// [`Dim::undefined`], whatever the other operand is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Dim(Repr);

/// Graphs hold millions of dims, nearly all of them constants: those need no memory of their own.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Const(i64),
    /// What is no constant.
    Poly(Arc<[(Monomial, i64)]>),
}

/// Why a dim has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A symbol has no value.
    #[error("symbol {0} is not bound")]
    Unbound(Symbol),
    /// The value does not fit 64 bits, or a divisor is zero.
    #[error("{0} has no 64-bit value")]
    Overflow(Dim),
}

impl Dim {
    /// The dim of one symbol.
    pub fn symbol(name: &str) -> Self {
        Self::atom(Atom::Symbol(Symbol::new(name)))
    }

    fn atom(atom: Atom) -> Self {
        Self(Repr::Poly([(vec![atom], 1)].into()))
    }

    fn from_terms(mut terms: BTreeMap<Monomial, i64>) -> Self {
        terms.retain(|_, c| *c != 0);
        match terms.first_key_value() {
            None => Self::from(0),
            Some((m, c)) if m.is_empty() && terms.len() == 1 => Self::from(*c),
            _ => Self(Repr::Poly(terms.into_iter().collect())),
        }
    }

    /// The terms of the normal form, ascending: monomial and coefficient.
    pub fn terms(&self) -> impl DoubleEndedIterator<Item = (&[Atom], i64)> {
        let (constant, terms) = match &self.0 {
            Repr::Const(c) => ((*c != 0).then_some((&[] as &[Atom], *c)), &[] as &[_]),
            Repr::Poly(terms) => (None, &**terms),
        };
        constant.into_iter().chain(terms.iter().map(|(m, c)| (m.as_slice(), *c)))
    }

    /// The only term, if there is one and not a constant.
    fn single(&self) -> Option<(&[Atom], i64)> {
        match &self.0 {
            Repr::Poly(terms) => match &**terms {
                [(m, c)] => Some((m, *c)),
                _ => None,
            },
            Repr::Const(_) => None,
        }
    }

    /// The dim without a value, `floordiv(1, 0)`: what arithmetic gives that leaves 64 bits. [`Dim::eval`] reports it.
    pub fn undefined() -> Self {
        Self::atom(Atom::Apply(DimFn::FloorDiv, Dim::from(1), Dim::from(0)))
    }

    /// Whether this is [`Dim::undefined`].
    pub fn is_undefined(&self) -> bool {
        matches!(self.single(), Some(([Atom::Apply(DimFn::FloorDiv, a, b)], 1)) if a.is(1) && b.is(0))
    }

    /// The sum, or `None` if a coefficient leaves 64 bits.
    fn checked_add(&self, other: &Dim) -> Option<Dim> {
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &other.0) {
            return a.checked_add(*b).map(Dim::from);
        }
        let mut terms: BTreeMap<Monomial, i64> = self.terms().map(|(m, c)| (m.to_vec(), c)).collect();
        for (m, c) in other.terms() {
            let slot = terms.entry(m.to_vec()).or_insert(0);
            *slot = slot.checked_add(c)?;
        }
        Some(Dim::from_terms(terms))
    }

    /// The product, or `None` if a coefficient leaves 64 bits.
    fn checked_mul(&self, other: &Dim) -> Option<Dim> {
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &other.0) {
            return a.checked_mul(*b).map(Dim::from);
        }
        let mut terms: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (m, c) in self.terms() {
            for (n, d) in other.terms() {
                let mut monomial = [m, n].concat();
                monomial.sort();
                let slot = terms.entry(monomial).or_insert(0);
                *slot = slot.checked_add(c.checked_mul(d)?)?;
            }
        }
        Some(Dim::from_terms(terms))
    }

    /// The value, if it does not depend on a symbol.
    pub fn as_const(&self) -> Option<i64> {
        match &self.0 {
            Repr::Const(c) => Some(*c),
            Repr::Poly(_) => None,
        }
    }

    /// Whether this is the given constant.
    pub fn is(&self, n: i64) -> bool {
        self.as_const() == Some(n)
    }

    /// The symbol, if the dim is exactly one symbol.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match self.single() {
            Some(([Atom::Symbol(s)], 1)) => Some(s),
            _ => None,
        }
    }

    /// `self / d` where every coefficient, or the whole polynomial by a monomial, divides exactly; else `None`.
    pub fn div_exact(&self, d: &Dim) -> Option<Dim> {
        if self == d && !d.is(0) {
            return Some(Dim::from(1));
        }
        if self.is_undefined() || d.is_undefined() {
            return None;
        }
        let (divisor, coeff) = match &d.0 {
            Repr::Const(0) => return None,
            Repr::Const(c) => (&[] as &[Atom], *c),
            Repr::Poly(_) => d.single()?,
        };
        let mut terms = BTreeMap::new();
        for (m, c) in self.terms() {
            if c.checked_rem(coeff)? != 0 {
                return None;
            }
            let mut rest = m.to_vec();
            for atom in divisor {
                let at = rest.iter().position(|a| a == atom)?;
                rest.remove(at);
            }
            terms.insert(rest, c / coeff);
        }
        Some(Self::from_terms(terms))
    }

    /// A function of two dims, simplified where exact.
    pub fn apply(f: DimFn, a: &Dim, b: &Dim) -> Dim {
        if let (Some(x), Some(y)) = (a.as_const(), b.as_const())
            && let Some(v) = f.apply(x, y)
        {
            return Dim::from(v);
        }
        if a.is_undefined() || b.is_undefined() {
            return Self::undefined();
        }
        match f {
            DimFn::FloorDiv | DimFn::CeilDiv => {
                if let Some(q) = a.div_exact(b) {
                    return q;
                }
            }
            DimFn::Mod => {
                if a.div_exact(b).is_some() {
                    return Dim::from(0);
                }
            }
            DimFn::Min | DimFn::Max => {
                if let Some(difference) = (a.clone() - b).sign() {
                    let a_wins = if f == DimFn::Min { difference <= 0 } else { difference >= 0 };
                    return if a_wins { a.clone() } else { b.clone() };
                }
                if b < a {
                    return Self::atom(Atom::Apply(f, b.clone(), a.clone()));
                }
            }
        }
        Self::atom(Atom::Apply(f, a.clone(), b.clone()))
    }

    /// A sign that holds for every value of the symbols (which are at least 0): -1 for <= 0, 1 for >= 0, 0 for = 0.
    fn sign(&self) -> Option<i64> {
        fn non_negative(atom: &Atom) -> bool {
            match atom {
                Atom::Symbol(_) => true,
                Atom::Apply(_, a, b) => matches!(a.sign(), Some(0 | 1)) && matches!(b.sign(), Some(0 | 1)),
            }
        }
        if let Some(c) = self.as_const() {
            return Some(c.signum());
        }
        if self.is_undefined() {
            return None;
        }
        if !self.terms().all(|(m, _)| m.iter().all(non_negative)) {
            return None;
        }
        if self.terms().all(|(_, c)| c >= 0) {
            Some(1)
        } else if self.terms().all(|(_, c)| c <= 0) {
            Some(-1)
        } else {
            None
        }
    }

    /// Quotient rounded towards minus infinity.
    pub fn floordiv(&self, d: &Dim) -> Dim {
        Self::apply(DimFn::FloorDiv, self, d)
    }

    /// Quotient rounded towards plus infinity.
    pub fn ceildiv(&self, d: &Dim) -> Dim {
        Self::apply(DimFn::CeilDiv, self, d)
    }

    /// Remainder of the floor division.
    pub fn modulo(&self, d: &Dim) -> Dim {
        Self::apply(DimFn::Mod, self, d)
    }

    /// The smaller of two dims.
    pub fn at_most(&self, d: &Dim) -> Dim {
        Self::apply(DimFn::Min, self, d)
    }

    /// The larger of two dims.
    pub fn at_least(&self, d: &Dim) -> Dim {
        Self::apply(DimFn::Max, self, d)
    }

    /// The value for these symbols.
    ///
    /// # Errors
    /// A symbol is unbound, or the value leaves 64 bits.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, DimError> {
        let overflow = || DimError::Overflow(self.clone());
        let mut sum = 0i64;
        for (monomial, coeff) in self.terms() {
            let mut product = coeff;
            for atom in monomial {
                let v = match atom {
                    Atom::Symbol(s) => *bindings.get(s).ok_or_else(|| DimError::Unbound(s.clone()))?,
                    Atom::Apply(f, a, b) => {
                        f.apply(a.eval(bindings)?, b.eval(bindings)?).ok_or_else(overflow)?
                    }
                };
                product = product.checked_mul(v).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        Ok(sum)
    }

    /// Replaces symbols by dims.
    pub fn substitute(&self, with: &BTreeMap<Symbol, Dim>) -> Dim {
        self.terms().fold(Dim::from(0), |sum, (monomial, coeff)| {
            let product = monomial.iter().fold(Dim::from(coeff), |product, atom| {
                product
                    * match atom {
                        Atom::Symbol(s) => with.get(s).cloned().unwrap_or_else(|| Self::atom(atom.clone())),
                        Atom::Apply(f, a, b) => Dim::apply(*f, &a.substitute(with), &b.substitute(with)),
                    }
            });
            sum + product
        })
    }

    /// Adds the symbols that occur in the dim to `out`.
    pub fn collect_symbols(&self, out: &mut BTreeSet<Symbol>) {
        for (monomial, _) in self.terms() {
            for atom in monomial {
                match atom {
                    Atom::Symbol(s) => {
                        out.insert(s.clone());
                    }
                    Atom::Apply(_, a, b) => {
                        a.collect_symbols(out);
                        b.collect_symbols(out);
                    }
                }
            }
        }
    }
}

impl From<i64> for Dim {
    fn from(n: i64) -> Self {
        Self(Repr::Const(n))
    }
}

impl From<i32> for Dim {
    fn from(n: i32) -> Self {
        Self::from(i64::from(n))
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        i64::try_from(n).map_or_else(|_| Self::undefined(), Self::from)
    }
}

impl From<&Dim> for Dim {
    fn from(d: &Dim) -> Self {
        d.clone()
    }
}

/// By the terms of the normal form.
impl Ord for Dim {
    fn cmp(&self, other: &Self) -> Ordering {
        self.terms().cmp(other.terms())
    }
}

impl PartialOrd for Dim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The result of an operation on defined operands; undefined if an operand is.
fn defined(a: &Dim, b: &Dim, f: impl FnOnce(&Dim, &Dim) -> Option<Dim>) -> Dim {
    if a.is_undefined() || b.is_undefined() {
        Dim::undefined()
    } else {
        f(a, b).unwrap_or_else(Dim::undefined)
    }
}

impl<D: Into<Dim>> Add<D> for Dim {
    type Output = Dim;
    fn add(self, other: D) -> Dim {
        defined(&self, &other.into(), Dim::checked_add)
    }
}

impl Neg for Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        self * Dim::from(-1)
    }
}

impl<D: Into<Dim>> Sub<D> for Dim {
    type Output = Dim;
    fn sub(self, other: D) -> Dim {
        self + -other.into()
    }
}

impl<D: Into<Dim>> Mul<D> for Dim {
    type Output = Dim;
    fn mul(self, other: D) -> Dim {
        defined(&self, &other.into(), Dim::checked_mul)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is(0) {
            return f.write_str("0");
        }
        // The constant comes first in the normal form and last on paper.
        let ordered = self.terms().filter(|t| !t.0.is_empty()).chain(self.terms().filter(|t| t.0.is_empty()));
        for (i, (monomial, coeff)) in ordered.enumerate() {
            match (i, coeff < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let magnitude = coeff.unsigned_abs();
            if monomial.is_empty() || magnitude != 1 {
                write!(f, "{magnitude}")?;
            }
            for (j, atom) in monomial.iter().enumerate() {
                if j > 0 || magnitude != 1 {
                    f.write_str("*")?;
                }
                match atom {
                    Atom::Symbol(s) => write!(f, "{s}")?,
                    Atom::Apply(g, a, b) => write!(f, "{}({a}, {b})", g.name())?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
