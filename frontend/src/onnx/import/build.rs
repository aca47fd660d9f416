//! More ways to build IR, for importers that put much of it together.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::Val;
use super::super::shape::{self, Known, OVERFLOW};
use super::super::tensor::Literal;
use ssmc_ir::ops::{BinaryFn, Cmp, Compare, Concat, Constant, Contract, Iota, Pad, Select, Spec, UnaryFn};
use ssmc_ir::{DType, Dim, Shape};

impl Ctx<'_, '_> {
    /// The attribute or input must be as stated.
    pub(crate) fn expected(&self, idx: usize, expected: impl Into<String>) -> Fault {
        let found = self.opt(idx).map_or_else(|| "nothing".to_owned(), |v| self.ty(v).to_string());
        Fault::Input { idx, expected: expected.into(), found }
    }

    /// An integer scalar with the low bits of `x`.
    pub(crate) fn int_scalar(&mut self, dtype: DType, x: i64) -> Result<Val, Fault> {
        let data = x.to_le_bytes()[..dtype.bits().div_ceil(8)].to_vec();
        self.emit(Constant { dtype, shape: Shape::scalar(), data }, &[])
    }

    /// A comparison with broadcasting.
    pub(crate) fn compare(&mut self, cmp: Cmp, a: Val, b: Val) -> Result<Val, Fault> {
        let both = self.broadcast_all(&[a, b])?;
        self.emit(Compare { cmp }, &both)
    }

    /// A comparison with a number.
    pub(crate) fn compare_scalar(&mut self, cmp: Cmp, a: Val, x: f64) -> Result<Val, Fault> {
        let b = self.splat(x, a)?;
        self.emit(Compare { cmp }, &[a, b])
    }

    /// A choice per element with broadcasting.
    pub(crate) fn select(&mut self, cond: Val, yes: Val, no: Val) -> Result<Val, Fault> {
        let all = self.broadcast_all(&[cond, yes, no])?;
        self.emit(Select, &all)
    }

    /// Counts along the only axis of a vector.
    pub(crate) fn count(&mut self, n: &Dim, dtype: DType) -> Result<Val, Fault> {
        self.emit(Iota { axis: 0, dtype, shape: Shape::from([n.clone()]) }, &[])
    }

    /// Numbers of a float type.
    pub(crate) fn floats(&mut self, dtype: DType, dims: &[usize], values: &[f64]) -> Result<Val, Fault> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let literal = Literal { dtype: DType::F64, narrow: None, dims: dims.to_vec(), bytes: bytes.into() };
        let v = self.make_literal(literal);
        self.cast(v, dtype)
    }

    /// Integers.
    pub(crate) fn integers(&mut self, dims: &[usize], values: &[i64]) -> Val {
        let elems = values.iter().map(|x| Dim::from(*x)).collect();
        self.make_known(Known { dtype: DType::I64, shape: dims.to_vec(), elems })
    }

    /// A vector along one axis of a tensor of this rank.
    pub(crate) fn along(&mut self, v: Val, axis: usize, rank: usize) -> Result<Val, Fault> {
        let mut dims = vec![Dim::from(1); rank];
        dims[axis] = self.ty(v).shape[0].clone();
        self.reshape(v, &dims)
    }

    /// The dim as a scalar of a type.
    pub(crate) fn extent(&mut self, d: &Dim, dtype: DType) -> Result<Val, Fault> {
        let v = self.make_known(Known::scalar(d.clone()));
        self.cast(v, dtype)
    }

    /// Fill before and after the elements of an axis.
    pub(crate) fn pad(&mut self, v: Val, axis: usize, low: Dim, high: Dim, fill: Val) -> Result<Val, Fault> {
        if low.is(0) && high.is(0) {
            return Ok(v);
        }
        self.emit(Pad { axis, low, high }, &[v, fill])
    }

    /// Parts put behind each other.
    pub(crate) fn concat(&mut self, parts: &[Val], axis: usize) -> Result<Val, Fault> {
        match parts {
            [only] => Ok(*only),
            _ => self.emit(Concat { axis }, parts),
        }
    }

    /// A labelled product, such as `ab,bc->ac`.
    pub(crate) fn product(&mut self, spec: &str, operands: &[Val]) -> Result<Val, Fault> {
        let (inputs, output) = spec.split_once("->").expect("specs of importers have an arrow");
        let inputs = inputs.split(',').map(|labels| labels.as_bytes().to_vec()).collect();
        let spec = Spec { inputs, output: output.as_bytes().to_vec() };
        self.emit(Contract { spec: spec.renamed() }, operands)
    }

    /// `low <= x <= high`, clipped where it is not.
    pub(crate) fn clamp(&mut self, x: Val, low: f64, high: f64) -> Result<Val, Fault> {
        let x = self.binary_scalar(BinaryFn::Max, x, low)?;
        self.binary_scalar(BinaryFn::Min, x, high)
    }

    /// Softmax along one axis: m = max(x), e^(x - m) / sum of e^(x - m).
    pub(crate) fn softmax(&mut self, x: Val, axis: usize) -> Result<Val, Fault> {
        use ssmc_ir::ops::ReduceFn;
        let max = self.reduce(ReduceFn::Max, x, &[axis], true)?;
        let shifted = self.binary(BinaryFn::Sub, x, max)?;
        let exp = self.unary(UnaryFn::Exp, shifted)?;
        let sum = self.reduce(ReduceFn::Sum, exp, &[axis], true)?;
        self.binary(BinaryFn::Div, exp, sum)
    }

    /// The numbers of a float tensor known when compiling.
    pub(crate) fn known_floats(&self, v: Val) -> Option<Vec<f64>> {
        self.literal(v).and_then(Literal::floats).or_else(|| {
            let ints = self.known(v)?.as_consts()?;
            Some(ints.into_iter().map(|n| n as f64).collect())
        })
    }

    /// The sum of two extents.
    pub(crate) fn dim_add(&self, a: &Dim, b: i64) -> Result<Dim, Fault> {
        shape::add(a, &Dim::from(b)).ok_or(OVERFLOW)
    }
}
