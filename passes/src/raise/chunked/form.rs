//! Values as formal sums over the steps of a sequence.
//!
//! Axes that count steps are written out: a value is a grid of cells, one for each combination of their indices, and a
//! cell is a sum of monomials coef * exp(sum of log decays over steps) * product of tensors at one step each. All other
//! axes are labels, shared by all cells. Equality of such sums is equality of the tensors, whatever the elements are.

use ssmc_ir::{Dim, ValueId};
use std::collections::{BTreeMap, HashMap};

/// The largest number of monomials that a proof may hold at a time.
pub(super) const MAX_ENTRIES: usize = 1 << 22;
/// The largest number of tensors in a monomial.
pub(super) const MAX_LEAVES: usize = 8;

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
    #[error("an axis of steps has no fixed extent")]
    Symbolic,
    #[error("the axes of two factors cannot be divided alike")]
    Labels,
    #[error("a factor has fewer steps than the decays")]
    Short,
    #[error("the factors are nested too deeply")]
    Deep,
}

/// An axis, or a part of one, that does not count steps.
pub(super) type Label = u32;
/// The parts of an axis, the outermost first; none for an axis of extent 1.
pub(super) type List = Vec<Label>;
/// What stands for a label after others were divided or joined with it.
pub(super) type Substitution = BTreeMap<Label, List>;

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
}

/// Monomials in the same tensors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    pub(super) leaves: Vec<Leaf>,
    /// The axes of the log decays, if there are any.
    pub(super) decay: Option<Vec<List>>,
    pub(super) cells: Vec<Vec<Entry>>,
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
                let n: usize = terms
                    .iter()
                    .map(|t| from.iter().flatten().map(|i| t.cells[*i].len()).sum::<usize>())
                    .sum();
                if n > MAX_ENTRIES || from.len() > MAX_ENTRIES {
                    return Err(Gap::TooLarge);
                }
                let move_cells = |term: &Term| {
                    let cells = from.iter().map(|i| i.map_or_else(Vec::new, |i| term.cells[i].clone()));
                    Term { cells: cells.collect(), ..term.clone_frame() }
                };
                Self::Sum(terms.iter().map(move_cells).collect())
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

/// A sum of log decays over steps, by the sums over all steps before one: sum of `k_i * P[i]`, where
/// `P[i] = la[0] + .. + la[i-1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Exponent(u32);

impl Exponent {
    pub(super) const ZERO: Self = Self(0);
}

/// The exponents in use. Equal sums have equal names.
#[derive(Debug)]
pub(super) struct Exponents {
    sums: Vec<Vec<(u32, i64)>>,
    names: HashMap<Vec<(u32, i64)>, Exponent>,
    added: HashMap<(Exponent, Exponent), Exponent>,
}

impl Default for Exponents {
    fn default() -> Self {
        let names = HashMap::from([(Vec::new(), Exponent::ZERO)]);
        Self { sums: vec![Vec::new()], names, added: HashMap::new() }
    }
}

impl Exponents {
    fn name(&mut self, sum: Vec<(u32, i64)>) -> Exponent {
        let next = Exponent(self.sums.len() as u32);
        let sums = &mut self.sums;
        *self.names.entry(sum).or_insert_with_key(|sum| {
            sums.push(sum.clone());
            next
        })
    }

    /// The sum of the log decays of steps `from..to`; negative if `to` comes first.
    pub(super) fn between(&mut self, from: u32, to: u32) -> Exponent {
        let mut sum = vec![(from, -1), (to, 1)];
        sum.sort_unstable();
        if from == to { Exponent::ZERO } else { self.name(sum) }
    }

    /// x + k * y.
    pub(super) fn add(&mut self, x: Exponent, y: Exponent, k: i64) -> Exponent {
        if y == Exponent::ZERO || k == 0 {
            return x;
        }
        if x == Exponent::ZERO && k == 1 {
            return y;
        }
        if k == 1
            && let Some(known) = self.added.get(&(x, y))
        {
            return *known;
        }
        let mut sum: BTreeMap<u32, i64> = self.sums[x.0 as usize].iter().copied().collect();
        for (i, n) in &self.sums[y.0 as usize] {
            *sum.entry(*i).or_default() += n * k;
        }
        let name = self.name(sum.into_iter().filter(|(_, n)| *n != 0).collect());
        if k == 1 {
            self.added.insert((x, y), name);
        }
        name
    }
}

/// The extents of labels.
#[derive(Debug, Default)]
pub(super) struct Labels {
    extents: Vec<Dim>,
}

impl Labels {
    pub(super) fn fresh(&mut self, extent: Dim) -> Label {
        self.extents.push(extent);
        (self.extents.len() - 1) as Label
    }

    pub(super) fn extent(&self, label: Label) -> &Dim {
        &self.extents[label as usize]
    }

    /// Divides the axis into parts of these extents; labels that straddle a border are divided.
    pub(super) fn divide(&mut self, list: &[Label], dims: &[Dim]) -> Option<(Vec<List>, Substitution)> {
        let parts: Vec<Label> = dims.iter().map(|d| self.fresh(d.clone())).collect();
        let mut with = Substitution::new();
        self.unify(&mut with, list, &parts)?;
        Some((parts.iter().map(|l| resolve(&with, &[*l])).collect(), with))
    }

    /// Makes two axes the same by dividing and joining their labels.
    pub(super) fn unify(&mut self, with: &mut Substitution, x: &[Label], y: &[Label]) -> Option<()> {
        let is_unit = |labels: &Self, l: &Label| labels.extent(*l).is(1);
        let reversed = |list: &[Label]| -> Vec<Label> {
            resolve(with, list).into_iter().filter(|l| !is_unit(self, l)).rev().collect()
        };
        let (mut x, mut y) = (reversed(x), reversed(y));
        loop {
            let (Some(p), Some(q)) = (x.pop(), y.pop()) else {
                return (x.is_empty() && y.is_empty()).then_some(());
            };
            if p == q {
                continue;
            }
            let (a, b) = (self.extent(p).clone(), self.extent(q).clone());
            if a == b {
                self.put(with, q, vec![p]);
            } else if let Some(rest) = a.div_exact(&b).filter(|d| !d.is(1)) {
                let rest = self.fresh(rest);
                self.put(with, p, vec![q, rest]);
                x = x.iter().rev().flat_map(|l| resolve(with, &[*l])).collect();
                x.reverse();
                y = y.iter().rev().flat_map(|l| resolve(with, &[*l])).collect();
                y.reverse();
                x.push(rest);
            } else {
                let rest = self.fresh(b.div_exact(&a)?);
                self.put(with, q, vec![p, rest]);
                x = x.iter().rev().flat_map(|l| resolve(with, &[*l])).collect();
                x.reverse();
                y = y.iter().rev().flat_map(|l| resolve(with, &[*l])).collect();
                y.reverse();
                y.push(rest);
            }
            if x.len() + y.len() > 64 {
                return None;
            }
        }
    }

    fn put(&self, with: &mut Substitution, label: Label, list: List) {
        let single = Substitution::from([(label, list.clone())]);
        for other in with.values_mut() {
            *other = resolve(&single, other);
        }
        with.insert(label, list);
    }
}

/// The list after a substitution.
pub(super) fn resolve(with: &Substitution, list: &[Label]) -> List {
    list.iter().flat_map(|l| with.get(l).cloned().unwrap_or_else(|| vec![*l])).collect()
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
    /// A tensor that is one number everywhere.
    pub(super) fn splat(axes: Vec<Axis>, x: f64) -> Self {
        let n = n_cells(&axes);
        let entries = if x == 0.0 { Vec::new() } else { vec![Entry { coef: x, ..Entry::ONE }] };
        let term = Term { leaves: Vec::new(), decay: None, cells: vec![entries; n] };
        Self { axes, body: Body::Sum(vec![term]) }
    }

    /// The numbers in the cells, if they hold nothing else.
    pub(super) fn numbers(&self) -> Option<Vec<f64>> {
        let Body::Sum(terms) = &self.body else { return None };
        let mut numbers = vec![0.0; n_cells(&self.axes)];
        for term in terms {
            let is_empty = term.cells.iter().all(Vec::is_empty);
            let is_number = term.leaves.is_empty() && term.decay.is_none();
            if !(is_empty || is_number) {
                return None;
            }
            for (n, cell) in numbers.iter_mut().zip(&term.cells) {
                *n += cell.iter().map(|e| e.coef).sum::<f64>();
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
        Self { leaves: self.leaves.clone(), decay: self.decay.clone(), cells: Vec::new() }
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
