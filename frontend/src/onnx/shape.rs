//! Shape arithmetic while importing: dims that never overflow, and integer tensors known when compiling.

use super::fault::Fault;
use ssmc_ir::dim::Atom;
use ssmc_ir::{DType, Dim, DimFn, Shape, TensorType};

/// The largest extent that a model may state.
pub(crate) const MAX_DIM: i64 = 1 << 40;
/// The largest number of elements of one tensor.
pub(crate) const MAX_ELEMS: u64 = 1 << 48;
/// The most axes of a tensor.
pub(crate) const MAX_RANK: usize = 32;
/// The most elements of an integer tensor whose values are followed.
pub(crate) const MAX_KNOWN: usize = 1024;
/// The most coefficients and atoms of a dim, those inside divisions included.
const MAX_TERMS: usize = 256;
/// Sums of absolute coefficients stay below this, so that no operation on dims leaves 64 bits.
const MAX_NORM: i128 = 1 << 61;

/// Sum of the absolute coefficients, and the number of coefficients and atoms.
fn measure(dim: &Dim) -> (i128, usize) {
    let mut norm = 0i128;
    let mut size = 0usize;
    for (monomial, coeff) in dim.terms() {
        norm += i128::from(coeff).abs();
        size += 1 + monomial.len();
        for atom in monomial {
            if let Atom::Apply(_, a, b) = atom {
                size += measure(a).1 + measure(b).1;
            }
        }
    }
    (norm, size)
}

/// The sum, unless it leaves the limits.
pub(crate) fn add(a: &Dim, b: &Dim) -> Option<Dim> {
    let ((na, sa), (nb, sb)) = (measure(a), measure(b));
    (na + nb < MAX_NORM && sa + sb <= MAX_TERMS).then(|| a.clone() + b)
}

/// The difference, unless it leaves the limits.
pub(crate) fn sub(a: &Dim, b: &Dim) -> Option<Dim> {
    let ((na, sa), (nb, sb)) = (measure(a), measure(b));
    (na + nb < MAX_NORM && sa + sb <= MAX_TERMS).then(|| a.clone() - b)
}

/// The product, unless it leaves the limits.
pub(crate) fn mul(a: &Dim, b: &Dim) -> Option<Dim> {
    let ((na, sa), (nb, sb)) = (measure(a), measure(b));
    let fits = na.checked_mul(nb).is_some_and(|n| n < MAX_NORM)
        && sa.checked_mul(sb).is_some_and(|s| s <= MAX_TERMS);
    fits.then(|| a.clone() * b)
}

/// A function of two dims, unless it leaves the limits or divides by zero.
pub(crate) fn apply(f: DimFn, a: &Dim, b: &Dim) -> Option<Dim> {
    let ((na, sa), (nb, sb)) = (measure(a), measure(b));
    let divides = matches!(f, DimFn::FloorDiv | DimFn::CeilDiv | DimFn::Mod);
    if divides && b.is(0) {
        return None;
    }
    (na < MAX_NORM / 2 && nb < MAX_NORM / 2 && sa + sb <= MAX_TERMS).then(|| Dim::apply(f, a, b))
}

/// Whether the dim is at least 0 for all values of its symbols.
pub(crate) fn is_non_negative(d: &Dim) -> bool {
    apply(DimFn::Max, d, &Dim::from(0)).is_some_and(|m| m == *d)
}

/// Whether `a <= b` for all values of the symbols.
pub(crate) fn is_at_most(a: &Dim, b: &Dim) -> bool {
    sub(b, a).is_some_and(|d| is_non_negative(&d))
}

/// Checks that a shape has sizes that the rest of the compiler can calculate with.
///
/// # Errors
/// Too many axes, a dim that is negative, too large or too long, or too many elements.
pub(crate) fn check_shape(shape: &[Dim]) -> Result<(), Fault> {
    if shape.len() > MAX_RANK {
        return Err(Fault::Limit { what: "number of axes", limit: MAX_RANK as u64 });
    }
    let (mut elems, mut terms) = (1i128, 1usize);
    for d in shape {
        let (norm, size) = measure(d);
        if d.as_const().is_some_and(|n| n < 0) {
            return Err(Fault::Mismatch {
                what: "shape".into(),
                expected: "no negative extent".into(),
                found: Shape::from(shape).to_string(),
            });
        }
        if size > MAX_TERMS {
            return Err(Fault::Limit { what: "terms of an extent", limit: MAX_TERMS as u64 });
        }
        if norm > i128::from(MAX_DIM) {
            return Err(Fault::Limit { what: "an extent", limit: MAX_DIM as u64 });
        }
        elems = elems.saturating_mul(norm.max(1));
        terms = terms.saturating_mul(size.max(1));
    }
    if elems > i128::from(MAX_ELEMS) {
        return Err(Fault::Limit { what: "elements of a tensor", limit: MAX_ELEMS });
    }
    if terms > 1 << 16 {
        return Err(Fault::Limit { what: "terms of a shape", limit: 1 << 16 });
    }
    Ok(())
}

/// Product of extents within the limits.
pub(crate) fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Result<Dim, Fault> {
    dims.into_iter().try_fold(Dim::from(1), |n, d| mul(&n, d)).ok_or(OVERFLOW)
}

/// The fault of shape arithmetic that leaves the limits.
pub(crate) const OVERFLOW: Fault = Fault::Limit { what: "shape arithmetic", limit: MAX_DIM as u64 };

/// The shape that two shapes broadcast to, aligned at the last axis; `None` if they do not, or not provably.
pub(crate) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map(|i| s[i].clone());
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (Some(x), Some(y)) if x == y => Some(x),
            (Some(x), Some(y)) if x.is(1) => Some(y),
            (Some(x), Some(y)) if y.is(1) => Some(x),
            (Some(_), Some(_)) => None,
            (x, y) => x.or(y),
        })
        .collect()
}

/// An integer or boolean tensor whose elements are dims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) elems: Vec<Dim>,
}

impl Known {
    /// A vector of `i64`.
    pub(crate) fn vector(elems: Vec<Dim>) -> Self {
        Self { dtype: DType::I64, shape: vec![elems.len()], elems }
    }

    /// A scalar of `i64`.
    pub(crate) fn scalar(elem: Dim) -> Self {
        Self { dtype: DType::I64, shape: Vec::new(), elems: vec![elem] }
    }

    /// Its tensor type.
    pub(crate) fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, self.shape.iter().copied().collect::<Shape>())
    }

    /// All elements as constants, or `None` if one is symbolic.
    pub(crate) fn as_consts(&self) -> Option<Vec<i64>> {
        self.elems.iter().map(Dim::as_const).collect()
    }

    /// The same elements in another shape.
    pub(crate) fn reshaped(&self, shape: &Shape) -> Option<Self> {
        let shape: Vec<usize> =
            shape.as_const()?.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
        (shape.iter().product::<usize>() == self.elems.len()).then(|| Self {
            dtype: self.dtype,
            shape,
            elems: self.elems.clone(),
        })
    }

    /// A function of each pair of elements, with broadcasting.
    pub(crate) fn zip(
        &self,
        other: &Self,
        dtype: DType,
        f: impl Fn(&Dim, &Dim) -> Option<Dim>,
    ) -> Option<Self> {
        let rank = self.shape.len().max(other.shape.len());
        let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
        let shape = (0..rank)
            .map(|i| match (at(&self.shape, i), at(&other.shape, i)) {
                (x, y) if x == y || y == 1 => Some(x),
                (1, y) => Some(y),
                _ => None,
            })
            .collect::<Option<Vec<usize>>>()?;
        let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_KNOWN)?;
        let pick = |k: &Self, flat: usize| {
            let (mut rest, mut idx, mut step) = (flat, 0, 1);
            for i in (0..rank).rev() {
                let (len, extent) = (shape[i], at(&k.shape, i));
                if extent != 1 {
                    idx += (rest % len) * step;
                }
                step *= extent;
                rest /= len;
            }
            k.elems[idx].clone()
        };
        let elems = (0..n).map(|i| f(&pick(self, i), &pick(other, i))).collect::<Option<Vec<_>>>()?;
        Some(Self { dtype, shape, elems })
    }

    /// The tensor of this shape whose element at `idx` is the element of `self` at `from(idx)`; `None` if it is too
    /// large or an index leaves `self`.
    pub(crate) fn pick(
        &self,
        shape: Vec<usize>,
        from: impl Fn(&[usize]) -> Option<Vec<usize>>,
    ) -> Option<Self> {
        let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MAX_KNOWN)?;
        let mut idx = vec![0; shape.len()];
        let mut elems = Vec::with_capacity(n);
        for _ in 0..n {
            let at = from(&idx)?;
            if at.len() != self.shape.len() || at.iter().zip(&self.shape).any(|(i, d)| i >= d) {
                return None;
            }
            let flat = at.iter().zip(&self.shape).fold(0, |flat, (i, d)| flat * d + i);
            elems.push(self.elems.get(flat)?.clone());
            for axis in (0..shape.len()).rev() {
                idx[axis] += 1;
                if idx[axis] < shape[axis] {
                    break;
                }
                idx[axis] = 0;
            }
        }
        Some(Self { dtype: self.dtype, shape, elems })
    }

    /// The elements `first, first + step, ..` along one axis.
    pub(crate) fn slice(&self, axis: usize, first: &Dim, len: &Dim, step: i64) -> Option<Self> {
        let (first, len) = (first.as_const()?, usize::try_from(len.as_const()?).ok()?);
        let mut shape = self.shape.clone();
        *shape.get_mut(axis)? = len;
        self.pick(shape, |idx| {
            let mut at = idx.to_vec();
            let offset = i64::try_from(idx[axis]).ok()?.checked_mul(step)?;
            at[axis] = usize::try_from(first.checked_add(offset)?).ok()?;
            Some(at)
        })
    }

    /// Axis `i` of the result is axis `perm[i]`, a permutation.
    pub(crate) fn transpose(&self, perm: &[usize]) -> Option<Self> {
        self.pick(perm.iter().map(|p| self.shape[*p]).collect(), |idx| {
            let mut at = vec![0; perm.len()];
            for (i, p) in perm.iter().enumerate() {
                at[*p] = idx[i];
            }
            Some(at)
        })
    }

    /// A function of each element.
    pub(crate) fn map(&self, dtype: DType, f: impl Fn(&Dim) -> Option<Dim>) -> Option<Self> {
        let elems = self.elems.iter().map(f).collect::<Option<Vec<_>>>()?;
        Some(Self { dtype, shape: self.shape.clone(), elems })
    }
}

/// An ONNX axis, which may count from the end, as an index below `rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let idx = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    idx.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < rank).ok_or_else(|| Fault::Attribute {
        name: "axis".into(),
        expected: format!("an axis of a tensor of rank {rank}"),
        found: axis.to_string(),
    })
}
