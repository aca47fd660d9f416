//! Indices of vector code: what each lane points at along one axis.

use crate::kernel::{Elem, KernelBuilder, Reg};
use ssmc_ir::Dim;
use std::collections::BTreeMap;

/// The index along one axis, for all lanes of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Idx {
    /// The same `i64` scalar in every lane.
    Uniform(Reg),
    /// `base + lane * stride`; `aligned` says that `base` is a multiple of the lanes and `stride` is 1.
    Lanes { base: Reg, stride: i64, aligned: bool },
    /// An `i64` vector.
    Vector(Reg),
}

/// Quotients and remainders with the index and the divisor that they came from: `q*n + m` is the index again.
pub(crate) type Splits = BTreeMap<(Idx, Idx, Reg), Idx>;

/// Arithmetic on indices; `lanes` is the width of vectors.
pub(crate) struct IndexBuilder<'b> {
    pub(crate) b: &'b mut KernelBuilder,
    pub(crate) lanes: u16,
    pub(crate) splits: &'b mut Splits,
}

impl IndexBuilder<'_> {
    pub(crate) fn constant(&mut self, v: i64) -> Idx {
        Idx::Uniform(self.b.const_i64(v))
    }

    /// The index as an `i64` vector.
    pub(crate) fn vector(&mut self, i: Idx) -> Reg {
        match i {
            Idx::Vector(v) => v,
            Idx::Uniform(r) => self.b.splat(r, self.lanes),
            Idx::Lanes { base, stride, .. } => {
                let ids = self.b.iota(Elem::I64, self.lanes);
                let steps = if stride == 1 { ids } else { self.b.mul(ids, stride) };
                let base = self.b.splat(base, self.lanes);
                self.b.add(base, steps)
            }
        }
    }

    /// i * n for a scalar n.
    pub(crate) fn mul(&mut self, i: Idx, n: Reg) -> Idx {
        if self.b.known_i64(n) == Some(1) {
            return i;
        }
        match i {
            Idx::Uniform(r) => Idx::Uniform(self.b.mul(r, n)),
            Idx::Lanes { base, stride, .. } => match self.b.known_i64(n) {
                Some(k) => Idx::Lanes { base: self.b.mul(base, n), stride: stride * k, aligned: false },
                None => self.mul_vector(i, n),
            },
            Idx::Vector(_) => self.mul_vector(i, n),
        }
    }

    fn mul_vector(&mut self, i: Idx, n: Reg) -> Idx {
        let (v, n) = (self.vector(i), self.b.splat(n, self.lanes));
        Idx::Vector(self.b.mul(v, n))
    }

    /// i + j.
    pub(crate) fn add(&mut self, i: Idx, j: Idx) -> Idx {
        match (i, j) {
            (Idx::Uniform(a), Idx::Uniform(b)) => Idx::Uniform(self.b.add(a, b)),
            (Idx::Lanes { base, stride, aligned }, Idx::Uniform(r))
            | (Idx::Uniform(r), Idx::Lanes { base, stride, aligned }) => {
                let aligned = aligned && self.multiple_of_lanes(r);
                Idx::Lanes { base: self.b.add(base, r), stride, aligned }
            }
            (Idx::Lanes { base: a, stride: s, .. }, Idx::Lanes { base: b, stride: t, .. }) => {
                Idx::Lanes { base: self.b.add(a, b), stride: s + t, aligned: false }
            }
            (Idx::Vector(_), _) | (_, Idx::Vector(_)) => {
                let (a, b) = (self.vector(i), self.vector(j));
                Idx::Vector(self.b.add(a, b))
            }
        }
    }

    fn multiple_of_lanes(&self, r: Reg) -> bool {
        self.b.known_i64(r).is_some_and(|k| k % i64::from(self.lanes) == 0)
    }

    /// n - 1 - i.
    pub(crate) fn mirror(&mut self, i: Idx, n: Reg) -> Idx {
        let last = self.b.sub(n, 1);
        match i {
            Idx::Uniform(r) => Idx::Uniform(self.b.sub(last, r)),
            Idx::Lanes { base, stride, .. } => {
                Idx::Lanes { base: self.b.sub(last, base), stride: -stride, aligned: false }
            }
            Idx::Vector(v) => {
                let last = self.b.splat(last, self.lanes);
                Idx::Vector(self.b.sub(last, v))
            }
        }
    }

    /// Quotient and remainder of an index by an extent. An extent of 0 has no elements, but code for lanes that do
    /// not exist may still divide by it: it counts as 1.
    pub(crate) fn div_rem(&mut self, i: Idx, n: Reg) -> (Idx, Idx) {
        let zero = self.constant(0);
        if self.b.known_i64(n) == Some(1) {
            return (i, zero);
        }
        let extent = n;
        let n = if self.b.known_i64(n).is_some_and(|n| n > 0) { n } else { self.b.max(n, 1) };
        let (q, m) = match i {
            Idx::Uniform(r) => {
                let (q, m) = (self.b.div(r, n), self.b.rem(r, n));
                (Idx::Uniform(q), Idx::Uniform(m))
            }
            Idx::Lanes { base, stride: 1, aligned: true } if self.multiple_of_lanes(n) => {
                let (q, m) = (self.b.div(base, n), self.b.rem(base, n));
                (Idx::Uniform(q), Idx::Lanes { base: m, stride: 1, aligned: true })
            }
            Idx::Lanes { .. } | Idx::Vector(_) => {
                let (v, n) = (self.vector(i), self.b.splat(n, self.lanes));
                (Idx::Vector(self.b.div(v, n)), Idx::Vector(self.b.rem(v, n)))
            }
        };
        self.splits.insert((q, m, extent), i);
        (q, m)
    }

    /// Row-major position of `idx` in a tensor with these extents.
    pub(crate) fn linear(&mut self, idx: &[Idx], extents: &[Reg]) -> Idx {
        let mut sum = self.constant(0);
        for (i, n) in idx.iter().zip(extents) {
            // The extent 1 keeps a lane index from being scaled by a symbol for nothing.
            if self.b.known_i64(*n) != Some(1) {
                sum = match self.splits.get(&(sum, *i, *n)) {
                    Some(whole) => *whole,
                    None if self.is_zero(sum) => *i,
                    None => {
                        let scaled = self.mul(sum, *n);
                        self.add_aligned(scaled, *i, *n)
                    }
                };
            }
        }
        sum
    }

    fn is_zero(&self, i: Idx) -> bool {
        matches!(i, Idx::Uniform(r) if self.b.known_i64(r) == Some(0))
    }

    /// `outer * n` + inner, aligned if the inner index is and whole vectors fit `n`.
    fn add_aligned(&mut self, outer: Idx, inner: Idx, n: Reg) -> Idx {
        let whole = self.multiple_of_lanes(n);
        match (outer, inner) {
            (Idx::Uniform(a), Idx::Lanes { base, stride, aligned }) => {
                let aligned = aligned && whole;
                Idx::Lanes { base: self.b.add(a, base), stride, aligned }
            }
            _ => self.add(outer, inner),
        }
    }

    /// The multi-index of a row-major position.
    pub(crate) fn unravel(&mut self, position: Idx, extents: &[Reg]) -> Vec<Idx> {
        let mut out = vec![self.constant(0); extents.len()];
        let mut rest = position;
        let outermost = extents.iter().position(|n| self.b.known_i64(*n) != Some(1)).unwrap_or(0);
        for axis in (0..extents.len()).rev() {
            if axis == outermost {
                out[axis] = rest;
                break;
            }
            let (q, m) = self.div_rem(rest, extents[axis]);
            out[axis] = m;
            rest = q;
        }
        out
    }
}

/// How axes of a reshape correspond: ranges of operand axes and of result axes with equal products, in order.
pub(crate) fn reshape_groups(
    operand: &[Dim],
    result: &[Dim],
) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let one = Dim::from(1);
    let (mut i, mut j) = (0, 0);
    let mut groups = Vec::new();
    while i < operand.len() || j < result.len() {
        let (start_i, start_j) = (i, j);
        let (mut p, mut q) = (one.clone(), one.clone());
        if i < operand.len() {
            p = operand[i].clone();
            i += 1;
        }
        if j < result.len() {
            q = result[j].clone();
            j += 1;
        }
        while p != q {
            let p_divides = q.div_exact(&p).is_some();
            if (p_divides || j >= result.len()) && i < operand.len() {
                p = p * &operand[i];
                i += 1;
            } else if j < result.len() {
                q = q * &result[j];
                j += 1;
            } else {
                break;
            }
        }
        groups.push((start_i..i, start_j..j));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::reshape_groups;
    use ssmc_ir::Dim;

    fn groups(operand: &str, result: &str) -> Vec<(usize, usize)> {
        let dims = |s: &str| -> Vec<Dim> {
            s.split(',').map(|d| d.parse::<i64>().map(Dim::from).unwrap_or_else(|_| Dim::symbol(d))).collect()
        };
        let found = reshape_groups(&dims(operand), &dims(result));
        found.into_iter().map(|(a, b)| (a.len(), b.len())).collect()
    }

    #[test]
    fn axes_correspond_in_the_smallest_groups() {
        assert_eq!(groups("b,l,96", "b,l,2,48"), [(1, 1), (1, 1), (1, 2)]);
        assert_eq!(groups("b,l,2,48", "b,l,96"), [(1, 1), (1, 1), (2, 1)]);
        assert_eq!(groups("4,6", "6,4"), [(2, 2)]);
        assert_eq!(groups("b,1,6", "b,6"), [(1, 1), (2, 1)]);
        assert_eq!(groups("6", "1,6,1"), [(1, 2), (0, 1)]);
    }
}
