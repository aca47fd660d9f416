//! Values as formal sums over the steps of a sequence.
//!
//! Axes that count steps are written out: a value is a grid of cells, one for each combination of their indices, and a
//! cell is a sum of monomials coef * exp(sum of log decays over steps) * product of tensors at one step each. All other
//! axes are labels, shared by all cells. Equality of such sums is equality of the tensors, whatever the elements are.

use super::grid::{Cell, Grid};
use super::names::{Exponent, Label, Labels, List, Substitution, resolve};
use ssmc_ir::ValueId;
use std::collections::BTreeMap;

/// The largest number of monomials that a proof may hold at a time.
pub(super) const MAX_ENTRIES: usize = 1 << 22;
/// The largest number of tensors in a monomial.
pub(super) const MAX_LEAVES: usize = 8;
/// The steps that a monomial of a recurrence is made of: the one that entered, and the one that reads it.
pub(super) const MAX_STEPS: usize = 2;

/// Why a value is not followed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(super) enum Gap {
    #[error("{op} of decays or of what they weigh is not followed")]
    Op { op: &'static str },
    #[error("{op} mixes steps with other axes")]
    Mixed { op: &'static str },
    #[error("decays of different sequences meet")]
    Decays,
    #[error("a sum of decays is no number")]
    Infinite,
    #[error("a log decay is scaled by {coef}, which is no integer")]
    Scale { coef: f64 },
    #[error("the proof needs more than {MAX_ENTRIES} terms")]
    TooLarge,
    #[error("a product has more than {MAX_LEAVES} factors that depend on the step")]
    TooMany,
    #[error("a product reads more than {MAX_STEPS} steps, which no recurrence does")]
    Apart,
    #[error("a factor is no number")]
    NoNumber,
    #[error("an axis of steps has no fixed extent")]
    Symbolic,
    #[error("the axes of two factors cannot be divided alike")]
    Labels,
    #[error("a factor has fewer steps than the decays")]
    Short,
    #[error("the factors are nested too deeply")]
    Deep,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Axis {
    /// Counts steps, or chunks of them.
    Time(usize),
    /// Anything else.
    Free(List),
}

impl Axis {
    pub(super) fn is_time(&self) -> bool {
        matches!(self, Self::Time(_))
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = Label> + '_ {
        let list: &[Label] = match self {
            Self::Time(_) => &[],
            Self::Free(list) => list,
        };
        list.iter().copied()
    }
}

/// A tensor that is not looked into. Its axes of steps, flattened, are the step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leaf {
    pub(super) value: ValueId,
    pub(super) axes: Vec<Axis>,
}

impl Leaf {
    pub(super) fn has_steps(&self) -> bool {
        self.axes.iter().any(Axis::is_time)
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = Label> + '_ {
        self.axes.iter().flat_map(Axis::labels)
    }
}

/// A monomial of a cell: the step at which each leaf is read, and the decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) at: [u32; MAX_LEAVES],
    pub(super) exponent: Exponent,
    pub(super) coef: f64,
}

impl Entry {
    pub(super) const ONE: Self = Self { at: [0; MAX_LEAVES], exponent: Exponent::ZERO, coef: 1.0 };

    fn key(&self) -> ([u32; MAX_LEAVES], Exponent) {
        (self.at, self.exponent)
    }

    /// Whether these leaves are read at more steps than the monomials of a recurrence are. No factor takes steps away.
    pub(super) fn is_apart(&self, timed: &[usize]) -> bool {
        let mut steps = [0; MAX_STEPS];
        let mut n = 0;
        for at in timed.iter().map(|k| self.at[*k]) {
            if steps[..n].contains(&at) {
                continue;
            }
            if n == MAX_STEPS {
                return true;
            }
            steps[n] = at;
            n += 1;
        }
        false
    }
}

/// Monomials in the same tensors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    pub(super) leaves: Vec<Leaf>,
    /// The axes of the log decays, if there are any.
    pub(super) decay: Option<Vec<List>>,
    pub(super) cells: Grid,
}

/// What the cells hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    /// Sums of log decays, whose axes are `decay`; `None` is minus infinity.
    Log { decay: Vec<List>, cells: Vec<Option<Exponent>> },
    /// Sums of monomials.
    Sum(Vec<Term>),
}

/// A value that is followed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form<B = Body> {
    pub(super) axes: Vec<Axis>,
    pub(super) body: B,
}

/// The contents of a grid of cells.
pub(super) trait Cells: Clone {
    /// Cell `i` is the present cell `from[i]`, or zero.
    fn moved(&self, from: &[Option<usize>]) -> Result<Self, Gap>;

    /// The labels along which the contents vary, in lists that stand for axes of tensors.
    fn lists(&mut self) -> Vec<&mut List>;

    /// Whether any cell depends on the index along this label.
    fn bears(&self, label: Label) -> bool;
}

impl Cells for Body {
    fn moved(&self, from: &[Option<usize>]) -> Result<Self, Gap> {
        Ok(match self {
            Self::Log { decay, cells } => {
                let cells = from.iter().map(|i| i.map_or(Some(Exponent::ZERO), |i| cells[i])).collect();
                Self::Log { decay: decay.clone(), cells }
            }
            Self::Sum(terms) => {
                // Empty cells take time as well.
                if from.len() * terms.len() > 2 * MAX_ENTRIES {
                    return Err(Gap::TooLarge);
                }
                let move_cells = |term: &Term| Term { cells: term.cells.moved(from), ..term.clone_frame() };
                let terms: Vec<Term> = terms.iter().map(move_cells).collect();
                if terms.iter().map(|t| t.cells.n_entries()).sum::<usize>() > 2 * MAX_ENTRIES {
                    return Err(Gap::TooLarge);
                }
                Self::Sum(terms)
            }
        })
    }

    fn lists(&mut self) -> Vec<&mut List> {
        match self {
            Self::Log { decay, .. } => decay.iter_mut().collect(),
            Self::Sum(terms) => terms.iter_mut().flat_map(Term::lists).collect(),
        }
    }

    fn bears(&self, label: Label) -> bool {
        match self {
            Self::Log { decay, .. } => decay.iter().flatten().any(|l| *l == label),
            Self::Sum(terms) => terms.iter().any(|t| t.bears(label)),
        }
    }
}

/// Adds up equal monomials and drops those with coefficient 0.
pub(super) fn collect(entries: &mut Vec<Entry>) {
    if entries.len() > 1 {
        entries.sort_unstable_by_key(Entry::key);
        entries.dedup_by(|next, kept| {
            let same = next.key() == kept.key();
            if same {
                kept.coef += next.coef;
            }
            same
        });
    }
    entries.retain(|e| e.coef != 0.0);
}

impl Term {
    fn lists(&mut self) -> impl Iterator<Item = &mut List> {
        let leaves = self.leaves.iter_mut().flat_map(|leaf| leaf.axes.iter_mut().filter_map(list_of));
        leaves.chain(self.decay.iter_mut().flatten())
    }

    pub(super) fn bears(&self, label: Label) -> bool {
        self.leaves.iter().any(|leaf| leaf.labels().any(|l| l == label))
            || self.decay.iter().flatten().flatten().any(|l| *l == label)
    }
}

fn list_of(axis: &mut Axis) -> Option<&mut List> {
    match axis {
        Axis::Time(_) => None,
        Axis::Free(list) => Some(list),
    }
}

impl Form {
    /// The same tensors and axes without monomials.
    pub(super) fn frame(&self) -> Self {
        let body = match &self.body {
            Body::Log { decay, .. } => Body::Log { decay: decay.clone(), cells: Vec::new() },
            Body::Sum(terms) => Body::Sum(terms.iter().map(Term::clone_frame).collect()),
        };
        Self { axes: self.axes.clone(), body }
    }

    /// A tensor that is one number everywhere.
    pub(super) fn splat(axes: Vec<Axis>, x: f64) -> Self {
        let n = n_cells(&axes);
        let cell = if x == 0.0 { Cell::default() } else { Entry { coef: x, ..Entry::ONE }.into() };
        let term = Term { leaves: Vec::new(), decay: None, cells: Grid::repeat(&cell, n) };
        Self { axes, body: Body::Sum(vec![term]) }
    }

    /// The numbers in the cells, if they hold nothing else.
    pub(super) fn numbers(&self) -> Option<Vec<f64>> {
        let Body::Sum(terms) = &self.body else { return None };
        let mut numbers = vec![0.0; n_cells(&self.axes)];
        for term in terms {
            let is_number = term.leaves.is_empty() && term.decay.is_none();
            if !(term.cells.is_zero() || is_number) {
                return None;
            }
            for (i, entry) in term.cells.entries() {
                numbers[i] += entry.coef;
            }
        }
        Some(numbers)
    }
}

impl<B: Cells> Form<B> {
    /// The extents of the axes of steps.
    pub(super) fn times(&self) -> Vec<usize> {
        times(&self.axes)
    }

    /// The place of an axis among the axes of steps.
    pub(super) fn time_of(&self, axis: usize) -> usize {
        self.axes[..axis].iter().filter(|a| a.is_time()).count()
    }

    fn lists(&mut self) -> Vec<&mut List> {
        self.axes.iter_mut().filter_map(list_of).chain(self.body.lists()).collect()
    }

    pub(super) fn substitute(&mut self, with: &Substitution) {
        for list in self.lists() {
            *list = resolve(with, list);
        }
    }

    /// The same with labels of its own.
    pub(super) fn fresh(&self, labels: &mut Labels) -> Self {
        let mut form = self.clone();
        let mut names: BTreeMap<Label, Label> = BTreeMap::new();
        for list in form.lists() {
            for label in list {
                *label = *names.entry(*label).or_insert_with(|| labels.fresh(labels.extent(*label).clone()));
            }
        }
        form
    }

    /// The value with other axes, whose cell `i` is the present cell `from[i]`, or zero.
    pub(super) fn moved(&self, axes: Vec<Axis>, from: &[Option<usize>]) -> Result<Self, Gap> {
        Ok(Self { axes, body: self.body.moved(from)? })
    }

    /// The same value with these axes counted as steps, if nothing that is followed varies along them.
    pub(super) fn with_time(&self, axis: usize, extent: usize) -> Result<Self, Gap> {
        let Axis::Free(list) = &self.axes[axis] else { return Ok(self.clone()) };
        if list.iter().any(|l| self.body.bears(*l)) {
            return Err(Gap::Mixed { op: "product" });
        }
        let mut axes = self.axes.clone();
        axes[axis] = Axis::Time(extent);
        let (dims, slot) = (times(&axes), self.time_of(axis));
        let mut strides = strides(&self.times());
        strides.insert(slot, 0);
        self.moved(axes, &affine(&dims, &strides, 0))
    }
}

impl Term {
    /// Leaves and decays without cells.
    pub(super) fn clone_frame(&self) -> Self {
        Self { leaves: self.leaves.clone(), decay: self.decay.clone(), cells: Grid::default() }
    }
}

pub(super) fn times(axes: &[Axis]) -> Vec<usize> {
    axes.iter()
        .filter_map(|axis| match axis {
            Axis::Time(n) => Some(*n),
            Axis::Free(_) => None,
        })
        .collect()
}

pub(super) fn n_cells(axes: &[Axis]) -> usize {
    times(axes).iter().product()
}

/// The distance between neighbors along each axis.
pub(super) fn strides(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i] as isize;
    }
    strides
}

/// The sources of all cells: `offset` + sum of index * stride.
pub(super) fn affine(dims: &[usize], strides: &[isize], offset: isize) -> Vec<Option<usize>> {
    let mut from = vec![offset];
    for (dim, stride) in dims.iter().zip(strides) {
        from = from.iter().flat_map(|base| (0..*dim as isize).map(move |i| base + i * stride)).collect();
    }
    from.into_iter().map(|i| usize::try_from(i).ok()).collect()
}

impl Leaf {
    /// The same with other labels.
    pub(super) fn resolved(&self, with: &Substitution) -> Self {
        let axes = self.axes.iter().map(|axis| match axis {
            Axis::Free(list) => Axis::Free(resolve(with, list)),
            Axis::Time(n) => Axis::Time(*n),
        });
        Self { value: self.value, axes: axes.collect() }
    }
}

impl Form {
    pub(super) fn terms(&self) -> &[Term] {
        match &self.body {
            Body::Sum(terms) => terms,
            Body::Log { .. } => &[],
        }
    }
}
