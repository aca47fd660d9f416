//! Names of what sums are made of: sums of log decays, and labels of axes.

use ssmc_ir::Dim;
use std::collections::{BTreeMap, HashMap};

/// An axis, or a part of one, that does not count steps.
pub(super) type Label = u32;
/// The parts of an axis, the outermost first; none for an axis of extent 1.
pub(super) type List = Vec<Label>;
/// What stands for a label after others were divided or joined with it.
pub(super) type Substitution = BTreeMap<Label, List>;

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
