//! What the cells of a parallel scan hold: products of decays and states, each over a run of consecutive steps.
//!
//! With `h[t] = a[t] * h[t-1] + b[t]`, all that the associative combination of two runs can give is the product of the
//! decays of a run, and the state that a run leaves behind, decayed over the steps after it. So a cell takes constant
//! space, however long the run.

use super::super::algebra::aligned;
use super::super::form::{Axis, Cells, Form, Gap};
use super::super::names::{Label, Labels, List};

/// The contents of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// 0.
    Zero,
    /// `a[from] * .. * a[to-1]`; 1 if there is no step.
    Decays { from: u32, to: u32 },
    /// The state after steps `from..to` from zero, decayed over the steps until `until`.
    State { from: u32, to: u32, until: u32 },
    /// Anything else.
    Other,
}

impl Run {
    pub(super) const ONE: Self = Self::Decays { from: 0, to: 0 };

    /// The run of a number.
    pub(super) fn number(x: f64) -> Self {
        match x {
            0.0 => Self::Zero,
            1.0 => Self::ONE,
            _ => Self::Other,
        }
    }

    fn times(self, other: Self) -> Self {
        match (self, other) {
            (Self::Zero, _) | (_, Self::Zero) => Self::Zero,
            (Self::ONE, x) | (x, Self::ONE) => x,
            (Self::Decays { from: p, to: q }, Self::Decays { from: r, to: s }) if q == r => {
                Self::Decays { from: p, to: s }
            }
            (Self::Decays { from: p, to: q }, Self::Decays { from: r, to: s }) if s == p => {
                Self::Decays { from: r, to: q }
            }
            (Self::Decays { from: p, to: q }, Self::State { from, to, until })
            | (Self::State { from, to, until }, Self::Decays { from: p, to: q })
                if until == p =>
            {
                Self::State { from, to, until: q }
            }
            _ => Self::Other,
        }
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Zero, x) | (x, Self::Zero) => x,
            (Self::State { from: p, to: q, until }, Self::State { from: r, to: s, until: other })
                if until == other && q == r =>
            {
                Self::State { from: p, to: s, until }
            }
            (Self::State { from: p, to: q, until }, Self::State { from: r, to: s, until: other })
                if until == other && s == p =>
            {
                Self::State { from: r, to: q, until }
            }
            _ => Self::Other,
        }
    }
}

/// A grid of runs over two tensors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Runs {
    /// The axes of the decays but that of the steps, if any cell depends on them.
    pub(super) a: Option<Vec<List>>,
    /// Those of the inputs.
    pub(super) b: Option<Vec<List>>,
    pub(super) cells: Vec<Run>,
}

impl Runs {
    /// Numbers, which no label varies.
    pub(super) fn constant(cells: Vec<Run>) -> Self {
        Self { a: None, b: None, cells }
    }
}

impl Cells for Runs {
    fn moved(&self, from: &[Option<usize>]) -> Result<Self, Gap> {
        let cells = from.iter().map(|i| i.map_or(Run::Zero, |i| self.cells[i])).collect();
        Ok(Self { cells, ..self.clone() })
    }

    fn lists(&mut self) -> Vec<&mut List> {
        self.a.iter_mut().chain(&mut self.b).flatten().collect()
    }

    fn bears(&self, label: Label) -> bool {
        self.a.iter().chain(&self.b).flatten().flatten().any(|l| *l == label)
    }
}

/// Cell by cell, for forms of one shape.
fn joined(
    x: &Form<Runs>,
    y: &Form<Runs>,
    labels: &mut Labels,
    join: impl Fn(usize, Run, Run) -> Run,
) -> Result<Form<Runs>, Gap> {
    let (mut x, mut y) = (x.clone(), y.clone());
    for axis in 0..x.axes.len() {
        match (&x.axes[axis], &y.axes[axis]) {
            (Axis::Time(n), Axis::Free(_)) => y = y.with_time(axis, *n)?,
            (Axis::Free(_), Axis::Time(n)) => x = x.with_time(axis, *n)?,
            _ => {}
        }
    }
    let (x, y) = aligned(&x, &y, labels)?;
    let same = |p: Option<Vec<List>>, q: Option<Vec<List>>| match (p, q) {
        (Some(p), Some(q)) => (p == q).then_some(Some(p)).ok_or(Gap::Decays),
        (p, q) => Ok(p.or(q)),
    };
    let pairs = x.body.cells.into_iter().zip(y.body.cells).enumerate();
    let cells = pairs.map(|(i, (p, q))| join(i, p, q)).collect();
    Ok(Form {
        axes: x.axes,
        body: Runs { a: same(x.body.a, y.body.a)?, b: same(x.body.b, y.body.b)?, cells },
    })
}

pub(super) fn product(x: &Form<Runs>, y: &Form<Runs>, labels: &mut Labels) -> Result<Form<Runs>, Gap> {
    joined(x, y, labels, |_, p, q| p.times(q))
}

pub(super) fn sum(x: &Form<Runs>, y: &Form<Runs>, labels: &mut Labels) -> Result<Form<Runs>, Gap> {
    joined(x, y, labels, |_, p, q| p.plus(q))
}

/// The cells of `x` where `cond` holds and those of `y` elsewhere.
pub(super) fn select(
    cond: &[bool],
    x: &Form<Runs>,
    y: &Form<Runs>,
    labels: &mut Labels,
) -> Result<Form<Runs>, Gap> {
    joined(x, y, labels, |i, p, q| if cond[i] { p } else { q })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decays(from: u32, to: u32) -> Run {
        Run::Decays { from, to }
    }

    fn state(from: u32, to: u32, until: u32) -> Run {
        Run::State { from, to, until }
    }

    #[test]
    fn runs_that_meet_are_one() {
        assert_eq!(decays(0, 2).times(decays(2, 5)), decays(0, 5));
        assert_eq!(decays(2, 5).times(decays(0, 2)), decays(0, 5));
        assert_eq!(decays(2, 5).times(state(0, 2, 2)), state(0, 2, 5));
        assert_eq!(state(0, 2, 5).plus(state(2, 5, 5)), state(0, 5, 5));
        assert_eq!(state(2, 5, 5).plus(state(0, 2, 5)), state(0, 5, 5));
        assert_eq!(Run::ONE.times(state(0, 2, 5)), state(0, 2, 5));
        assert_eq!(Run::Zero.plus(state(0, 2, 5)), state(0, 2, 5));
        assert_eq!(Run::Zero.times(Run::Other), Run::Zero);
    }

    #[test]
    fn runs_that_overlap_or_leave_gaps_are_none() {
        assert_eq!(decays(0, 2).times(decays(1, 5)), Run::Other);
        assert_eq!(decays(0, 2).times(decays(3, 5)), Run::Other);
        assert_eq!(decays(3, 5).times(state(0, 2, 2)), Run::Other);
        assert_eq!(state(0, 2, 5).plus(state(2, 5, 6)), Run::Other);
        assert_eq!(state(0, 3, 5).plus(state(2, 5, 5)), Run::Other);
        assert_eq!(state(0, 2, 2).times(state(0, 2, 2)), Run::Other);
        assert_eq!(decays(0, 2).plus(decays(2, 3)), Run::Other);
        assert_eq!(Run::ONE.plus(Run::ONE), Run::Other);
    }
}
