//! Elements on demand: the value of any tensor of a group at any index.
//!
//! A lowering writes the loops of its root op. Whatever it reads it asks for by index; layout ops turn into index
//! arithmetic and elementwise ops into instructions, down to loads of the tensors that lie in memory.

use super::index::{Idx, IndexBuilder, Splits, reshape_groups};
use super::{Arg, LowerError, elem_of};
use crate::assemble::Packing;
use crate::kernel::{Access, Elem, KernelBuilder, ParamId, Reg, RegTy};
use ssmc_ir::ops::{Op, Spec};
use ssmc_ir::{DType, Def, Dim, Graph, Node, ValueId};
use std::collections::{BTreeMap, BTreeSet};

mod packed;
mod views;

pub(crate) use views::{shown, unwidened};

/// How the rows of a result, and the elements of a row, are shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// One thread per row, which walks along it in vectors: the schedule of CPUs.
    Vectors,
    /// One thread of a GPU per row, which walks along it alone.
    Serial { threads: u32 },
    /// One thread of a GPU per element. `last` is the axis along which rows run, `at` the thread's place there.
    Elements { threads: u32, last: Dim, at: Option<Reg> },
    /// One thread block per row, whose threads take turns along it.
    Rows { threads: u32 },
}

/// What the lowering of one group knows while it emits code.
pub(crate) struct Cx<'a> {
    pub(crate) graph: &'a Graph,
    /// Width of vectors.
    pub(crate) lanes: u16,
    /// Values that are computed here rather than loaded.
    inside: BTreeSet<ValueId>,
    params: BTreeMap<ValueId, ParamId>,
    /// Parameters of an outer kernel in which values lie.
    bound: BTreeMap<ValueId, ParamId>,
    /// The slots of the arena that take the place of those of the body of a loop.
    slots: Option<Vec<usize>>,
    /// Weights that are read as products have them packed.
    packed: BTreeMap<ValueId, Packing>,
    args: Vec<Arg>,
    dims: Vec<Dim>,
    /// Bytes of what the launches of the group share.
    scratch: Vec<Dim>,
    /// Who runs the loops over rows and along them.
    pub(crate) work: Work,
    /// Lanes that exist; `None` if all do.
    pub(crate) mask: Option<Reg>,
    splits: Splits,
    /// Values whose elements are all this one.
    same: BTreeMap<ValueId, Reg>,
    /// Elements known already, by value and index, innermost scope last.
    known: Vec<BTreeMap<(ValueId, Vec<Idx>), Reg>>,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(graph: &'a Graph, inside: BTreeSet<ValueId>, lanes: u16) -> Self {
        Self {
            graph,
            lanes,
            work: Work::Vectors,
            inside,
            params: BTreeMap::new(),
            bound: BTreeMap::new(),
            slots: None,
            packed: BTreeMap::new(),
            args: Vec::new(),
            dims: Vec::new(),
            scratch: Vec::new(),
            mask: None,
            splits: Splits::new(),
            same: BTreeMap::new(),
            known: vec![BTreeMap::new()],
        }
    }

    /// Whether a value is computed here rather than loaded.
    pub(crate) fn is_inside(&self, value: ValueId) -> bool {
        self.inside.contains(&value)
    }

    /// Arguments of the kernel's parameters and dims, in order, and the bytes of what launches share.
    pub(crate) fn into_args(self) -> (Vec<Arg>, Vec<Dim>, Vec<Dim>) {
        (self.args, self.dims, self.scratch)
    }

    /// What is emitted inside `f` may lie in a nested body and is not reused outside.
    pub(crate) fn scope<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        self.known.push(BTreeMap::new());
        let result = f(self);
        self.known.pop();
        result
    }

    /// As [`Cx::scope`], with fewer lanes alive.
    pub(crate) fn masked<R>(&mut self, mask: Option<Reg>, f: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.mask, mask);
        let result = self.scope(f);
        self.mask = outer;
        result
    }

    /// Says along which axis rows run. Makes vectors no wider than an axis of constant extent needs.
    pub(crate) fn narrow(&mut self, extent: &Dim) {
        if let Work::Elements { last, .. } = &mut self.work {
            *last = extent.clone();
        }
        let enough = |n: i64| u16::try_from(n).ok().and_then(u16::checked_next_power_of_two);
        if let Some(n) = extent.as_const().and_then(enough) {
            self.lanes = self.lanes.min(n);
        }
    }

    /// Arguments and extents of a kernel that goes on inside of a loop over a body, or behind it.
    pub(crate) fn take_args(&mut self) -> (Vec<Arg>, Vec<Dim>) {
        (std::mem::take(&mut self.args), std::mem::take(&mut self.dims))
    }

    /// Goes on with what [`Cx::take_args`] gave.
    pub(crate) fn continue_with(&mut self, (args, dims): (Vec<Arg>, Vec<Dim>)) {
        (self.args, self.dims) = (args, dims);
    }

    /// Says where the values and slots of the body of a loop lie.
    pub(crate) fn bind_body(&mut self, bound: BTreeMap<ValueId, ParamId>, slots: Vec<usize>) {
        (self.bound, self.slots) = (bound, Some(slots));
    }

    /// The slot of the arena that is this slot of the plan.
    pub(crate) fn slot(&self, slot: usize) -> usize {
        self.slots.as_ref().map_or(slot, |slots| slots[slot])
    }

    /// The parameter through which the loops of a region reach a slot of the arena.
    pub(crate) fn slot_param(
        &mut self,
        b: &mut KernelBuilder,
        slot: usize,
        dtype: DType,
    ) -> Result<ParamId, LowerError> {
        let elem = elem_of(dtype)?;
        let arg = Arg::Slot(self.slot(slot), dtype);
        if let Some(i) = self.args.iter().position(|a| *a == arg) {
            return Ok(ParamId(i as u32));
        }
        let param = b.param(&format!("p{}", self.args.len()), elem, Access::ReadWrite);
        self.args.push(arg);
        Ok(param)
    }

    /// The lane indices that start at `base`, a multiple of the lanes.
    pub(crate) fn lanes_from(&self, base: Reg) -> Idx {
        if self.lanes == 1 { Idx::Uniform(base) } else { Idx::Lanes { base, stride: 1, aligned: true } }
    }

    pub(crate) fn index<'b>(&'b mut self, b: &'b mut KernelBuilder) -> IndexBuilder<'b> {
        IndexBuilder { b, lanes: self.lanes, splits: &mut self.splits }
    }

    /// An extent as an `i64` scalar: a constant or an argument of the kernel.
    pub(crate) fn dim(&mut self, b: &mut KernelBuilder, dim: &Dim) -> Reg {
        if let Some(n) = dim.as_const() {
            return b.const_i64(n);
        }
        let i = self.dims.iter().position(|d| d == dim).unwrap_or_else(|| {
            self.dims.push(dim.clone());
            self.dims.len() - 1
        });
        b.dim(&format!("n{i}"))
    }

    pub(crate) fn extents(&mut self, b: &mut KernelBuilder, shape: &[Dim]) -> Vec<Reg> {
        shape.iter().map(|d| self.dim(b, d)).collect()
    }

    /// The parameter through which a tensor in memory is read.
    pub(crate) fn read_param(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
    ) -> Result<ParamId, LowerError> {
        if let Some(param) = self.bound.get(&value).or_else(|| self.params.get(&value)) {
            return Ok(*param);
        }
        let elem = elem_of(self.graph.ty(value).dtype)?;
        // Only where kernels follow each other closely it matters that weights never change.
        let is_weight = matches!(self.graph.def_op(value), Some(Op::WeightRef(_) | Op::Constant(_)));
        let access = if is_weight && b.n_threads() > 1 { Access::Constant } else { Access::Read };
        let param = b.param(&format!("p{}", self.args.len()), elem, access);
        self.args.push(Arg::Value(value));
        self.params.insert(value, param);
        Ok(param)
    }

    /// The parameter of a weight in a packing of its own.
    pub(crate) fn packed_param(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
        packing: Packing,
    ) -> Result<ParamId, LowerError> {
        let elem = elem_of(self.graph.ty(value).dtype)?;
        let param = b.param(&format!("p{}", self.args.len()), elem, Access::Read);
        self.args.push(Arg::Packed(value, packing));
        Ok(param)
    }

    /// The parameter of a weight whose packing is in unsigned bytes.
    pub(crate) fn packed_bytes(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
        packing: Packing,
    ) -> ParamId {
        let param = b.param(&format!("p{}", self.args.len()), Elem::U8, Access::Read);
        self.args.push(Arg::Packed(value, packing));
        param
    }

    /// The parameter of memory number `i`, of so many elements, that the launches of the group share: one launch writes
    /// it, later ones read it.
    pub(crate) fn scratch_param(
        &mut self,
        b: &mut KernelBuilder,
        (i, elem, len): (usize, Elem, &Dim),
        is_written: bool,
    ) -> ParamId {
        if self.scratch.len() <= i {
            self.scratch.resize(i + 1, Dim::from(0));
        }
        self.scratch[i] = len.clone() * Dim::from(elem.size() as i64);
        let access = if is_written { Access::Write } else { Access::Read };
        let param = b.param(&format!("p{}", self.args.len()), elem, access);
        self.args.push(Arg::Scratch(i));
        param
    }

    /// The parameter through which a result is written.
    pub(crate) fn write_param(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
    ) -> Result<ParamId, LowerError> {
        self.result_param(b, value, Access::Write)
    }

    /// As [`Cx::write_param`], for a result that the kernel reads back.
    pub(crate) fn update_param(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
    ) -> Result<ParamId, LowerError> {
        self.result_param(b, value, Access::ReadWrite)
    }

    fn result_param(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
        access: Access,
    ) -> Result<ParamId, LowerError> {
        if let Some(param) = self.bound.get(&value) {
            return Ok(*param);
        }
        let elem = elem_of(self.graph.ty(value).dtype)?;
        let param = b.param(&format!("p{}", self.args.len()), elem, access);
        self.args.push(Arg::Value(value));
        Ok(param)
    }

    /// `x` is the element of `value` at `idx`; later requests get it without code.
    pub(crate) fn bind(&mut self, value: ValueId, idx: &[Idx], x: Reg) {
        self.known.last_mut().expect("the outermost scope stays").insert((value, idx.to_vec()), x);
    }

    /// `x` is every element of `value`: what it holds when a request is used.
    pub(crate) fn bind_all(&mut self, value: ValueId, x: Reg) {
        self.same.insert(value, x);
    }

    /// A register with one lane as a vector, if vectors are meant.
    pub(crate) fn widen(&self, b: &mut KernelBuilder, x: Reg) -> Reg {
        if self.lanes > 1 && b.lanes(x) == 1 { b.splat(x, self.lanes) } else { x }
    }

    /// The element of a value: one lane if it is the same for all, else a vector.
    pub(crate) fn get(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        debug_assert_eq!(idx.len(), self.graph.ty(value).rank(), "{value} {idx:?}");
        if let Some(x) = self.same.get(&value) {
            return Ok(*x);
        }
        let key = (value, idx.to_vec());
        if let Some(x) = self.known.iter().rev().find_map(|scope| scope.get(&key)) {
            return Ok(*x);
        }
        let x = match self.graph.def(value) {
            Def::Result(node, 0) if self.inside.contains(&value) => {
                self.compute(b, self.graph.node(node), idx)?
            }
            _ => match self.packed.get(&value) {
                Some(packing) => self.load_packed(b, value, &packing.clone(), idx)?,
                None => {
                    let param = self.read_param(b, value)?;
                    self.load(b, param, &self.graph.ty(value).shape, idx)
                }
            },
        };
        self.bind(value, idx, x);
        Ok(x)
    }

    /// As [`Cx::get`], always a vector.
    pub(crate) fn get_wide(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        let x = self.get(b, value, idx)?;
        Ok(self.widen(b, x))
    }

    /// As [`Cx::get_wide`], converted to `elem`.
    pub(crate) fn get_wide_as(
        &mut self,
        b: &mut KernelBuilder,
        (value, elem): (ValueId, Elem),
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        let x = self.get_wide(b, value, idx)?;
        Ok(b.cast(x, elem))
    }

    /// Loads from a row-major tensor.
    pub(crate) fn load(&mut self, b: &mut KernelBuilder, param: ParamId, shape: &[Dim], idx: &[Idx]) -> Reg {
        let extents = self.extents(b, shape);
        let at = self.index(b).linear(idx, &extents);
        match at {
            Idx::Uniform(i) => b.load(param, i, 1),
            Idx::Lanes { base, stride: 0, .. } => b.load(param, base, 1),
            Idx::Lanes { base, stride: 1, .. } => match self.mask {
                Some(mask) => b.load_masked(param, base, self.lanes, mask),
                None => b.load(param, base, self.lanes),
            },
            Idx::Lanes { .. } | Idx::Vector(_) => {
                let at = self.index(b).vector(at);
                b.gather(param, at, self.mask)
            }
        }
    }

    /// Stores to a row-major tensor; `x` is widened to the index.
    pub(crate) fn store(
        &mut self,
        b: &mut KernelBuilder,
        param: ParamId,
        shape: &[Dim],
        idx: &[Idx],
        x: Reg,
    ) {
        let extents = self.extents(b, shape);
        let at = self.index(b).linear(idx, &extents);
        match at {
            Idx::Uniform(i) => {
                // An axis of extent 1 has its element in the first lane.
                let x = if b.lanes(x) == 1 { x } else { b.extract(x, 0) };
                b.store(param, i, x);
            }
            Idx::Lanes { base, stride: 1, .. } => {
                let x = self.widen(b, x);
                match self.mask {
                    Some(mask) => b.store_masked(param, base, x, mask),
                    None => b.store(param, base, x),
                }
            }
            Idx::Lanes { .. } | Idx::Vector(_) => {
                let x = self.widen(b, x);
                let at = self.index(b).vector(at);
                b.scatter(param, at, x, self.mask);
            }
        }
    }

    fn compute(&mut self, b: &mut KernelBuilder, node: &Node, idx: &[Idx]) -> Result<Reg, LowerError> {
        let arg = |i: usize| node.operands[i].ok_or(LowerError::MissingOperand { op: node.op.name() });
        match &node.op {
            Op::Broadcast(op) => {
                let x = arg(0)?;
                let shape = &self.graph.ty(x).shape;
                let inner: Vec<_> = op
                    .axes
                    .iter()
                    .zip(shape.iter())
                    .map(|(axis, d)| if d.is(1) { Idx::Uniform(b.const_i64(0)) } else { idx[*axis] })
                    .collect();
                self.get(b, x, &inner)
            }
            Op::Reshape(op) => {
                let x = arg(0)?;
                let inner = self.map_reshape(b, idx, &op.shape, &self.graph.ty(x).shape);
                self.get(b, x, &inner)
            }
            Op::Transpose(op) => {
                let mut inner = idx.to_vec();
                for (i, from) in op.perm.iter().enumerate() {
                    inner[*from] = idx[i];
                }
                self.get(b, arg(0)?, &inner)
            }
            Op::Slice(op) => {
                let inner = self.map_slice(b, op, idx);
                self.get(b, arg(0)?, &inner)
            }
            Op::Reverse(op) => {
                let x = arg(0)?;
                let n = self.dim(b, &self.graph.ty(x).shape[op.axis]);
                let mut inner = idx.to_vec();
                inner[op.axis] = self.index(b).mirror(idx[op.axis], n);
                self.get(b, x, &inner)
            }
            Op::Contract(op) => self.product(b, &op.spec, &node.operands, idx),
            Op::Concat(op) => self.concat(b, op.axis, &node.operands, idx),
            Op::Pad(op) => {
                let (x, fill) = (arg(0)?, arg(1)?);
                let low = self.dim(b, &op.low);
                let n = self.dim(b, &self.graph.ty(x).shape[op.axis]);
                let mut inner = idx.to_vec();
                let minus_low = b.sub(0, low);
                inner[op.axis] = self.index(b).add(idx[op.axis], Idx::Uniform(minus_low));
                let fill = self.get(b, fill, &[])?;
                self.guarded(b, x, &inner, op.axis, n, fill)
            }
            Op::Gather(op) => {
                let (x, indices) = (arg(0)?, arg(1)?);
                self.find_packing(b, x, op.axis);
                let rank = self.graph.ty(indices).rank();
                let at = self.get(b, indices, &idx[op.axis..op.axis + rank])?;
                let at = b.cast(at, Elem::I64);
                let n = self.dim(b, &self.graph.ty(x).shape[op.axis]);
                let at = self.clamp_index(b, at, n);
                let at = if b.lanes(at) == 1 { Idx::Uniform(at) } else { Idx::Vector(at) };
                let inner = [&idx[..op.axis], &[at], &idx[op.axis + rank..]].concat();
                self.get(b, x, &inner)
            }
            Op::Iota(op) => {
                let at = match idx[op.axis] {
                    Idx::Uniform(r) => r,
                    other => self.index(b).vector(other),
                };
                let elem = elem_of(op.dtype)?;
                Ok(b.cast(at, elem))
            }
            Op::DimValue(op) => Ok(self.dim(b, &op.value)),
            Op::Constant(op) => super::scalar::constant(b, op),
            Op::Unary(op) => {
                let x = self.get(b, arg(0)?, idx)?;
                super::scalar::unary(b, op.f, x)
            }
            Op::Binary(op) => {
                let (x, y) = (self.get(b, arg(0)?, idx)?, self.get(b, arg(1)?, idx)?);
                let (x, y) = self.same_width(b, x, y);
                super::scalar::binary(b, op.f, x, y)
            }
            Op::Compare(op) => {
                let (x, y) = (self.get(b, arg(0)?, idx)?, self.get(b, arg(1)?, idx)?);
                let (x, y) = self.same_width(b, x, y);
                Ok(super::scalar::compare(b, op.cmp, x, y))
            }
            Op::Select(_) => {
                let cond = self.get(b, arg(0)?, idx)?;
                let (x, y) = (self.get(b, arg(1)?, idx)?, self.get(b, arg(2)?, idx)?);
                let (mut x, mut y) = self.same_width(b, x, y);
                if b.lanes(cond) > b.lanes(x) {
                    (x, y) = (self.widen(b, x), self.widen(b, y));
                }
                Ok(b.select(cond, x, y))
            }
            Op::Cast(op) => {
                let x = self.get(b, arg(0)?, idx)?;
                Ok(b.cast(x, elem_of(op.to)?))
            }
            Op::Dequantize(op) => {
                let (q, scale) = (arg(0)?, arg(1)?);
                let groups = self.dim(b, &self.graph.ty(scale).shape[op.axis]);
                let mut inner = idx.to_vec();
                inner[op.axis] = if b.known_i64(groups) == Some(1) {
                    Idx::Uniform(b.const_i64(0))
                } else {
                    let group = b.const_i64(op.group as i64);
                    self.index(b).div_rem(idx[op.axis], group).0
                };
                let (q, scale) = (self.get(b, q, idx)?, self.get(b, scale, &inner)?);
                let (q, scale) = (b.cast(q, Elem::F32), b.cast(scale, Elem::F32));
                let (q, scale) = self.same_width(b, q, scale);
                Ok(b.mul(q, scale))
            }
            Op::Bitcast(op) => {
                let x = self.get(b, arg(0)?, idx)?;
                let (from, to) = (b.ty(x).elem(), elem_of(op.to)?);
                // Between integers of one width a cast keeps the bits.
                Ok(if from.is_float() || to.is_float() { b.bitcast(x, to) } else { b.cast(x, to) })
            }
            op @ (Op::WeightRef(_)
            | Op::Reduce(_)
            | Op::CumSum(_)
            | Op::ArgMax(_)
            | Op::TopK(_)
            | Op::Scatter(_)
            | Op::Conv(_)
            | Op::CausalConv1d(_)
            | Op::LongConv(_)
            | Op::Dft(_)
            | Op::ComplexScan(_)
            | Op::Scan(_)
            | Op::DiscretizedScan(_)
            | Op::SelectiveScan(_)
            | Op::Ssd(_)
            | Op::LinearAttention(_)
            | Op::Wkv(_)
            | Op::RmsNorm(_)
            | Op::LayerNorm(_)
            | Op::GatedRmsNorm(_)
            | Op::Loop(_)
            | Op::If(_)) => Err(LowerError::NotElementwise { op: op.name() }),
        }
    }

    /// Operands of one width: both scalars or both vectors.
    pub(crate) fn same_width(&self, b: &mut KernelBuilder, x: Reg, y: Reg) -> (Reg, Reg) {
        if b.lanes(x) == b.lanes(y) { (x, y) } else { (self.widen(b, x), self.widen(b, y)) }
    }

    /// The index into a tensor of shape `to` of the element that a reshape puts at `idx` of shape `from`.
    pub(crate) fn map_reshape(
        &mut self,
        b: &mut KernelBuilder,
        idx: &[Idx],
        from: &[Dim],
        to: &[Dim],
    ) -> Vec<Idx> {
        let mut out = Vec::with_capacity(to.len());
        for (to_axes, from_axes) in reshape_groups(to, from) {
            if to_axes.len() == 1 && from_axes.len() == 1 {
                out.push(idx[from_axes.start]);
                continue;
            }
            let from_extents = self.extents(b, &from[from_axes.clone()]);
            let to_extents = self.extents(b, &to[to_axes]);
            let mut ib = self.index(b);
            let position = ib.linear(&idx[from_axes], &from_extents);
            out.extend(ib.unravel(position, &to_extents));
        }
        out
    }

    /// A contraction without a sum: the product of its operands.
    fn product(
        &mut self,
        b: &mut KernelBuilder,
        spec: &Spec,
        operands: &[Option<ValueId>],
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        let at = |label: &u8| -> Idx {
            let axis = spec.output.iter().position(|l| l == label);
            idx[axis.expect("a contraction inside a group sums over nothing")]
        };
        let mut product: Option<Reg> = None;
        for (labels, operand) in spec.inputs.iter().zip(operands) {
            let operand = operand.ok_or(LowerError::MissingOperand { op: "contract" })?;
            let inner: Vec<_> = labels.iter().map(at).collect();
            let x = self.get(b, operand, &inner)?;
            product = Some(match product {
                None => x,
                Some(p) => {
                    let (p, x) = self.same_width(b, p, x);
                    b.mul(p, x)
                }
            });
        }
        product.ok_or(LowerError::MissingOperand { op: "contract" })
    }

    fn concat(
        &mut self,
        b: &mut KernelBuilder,
        axis: usize,
        operands: &[Option<ValueId>],
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        let mut inner = idx.to_vec();
        let mut result: Option<Reg> = None;
        for operand in operands.iter().copied().flatten() {
            let ty = self.graph.ty(operand);
            let n = self.dim(b, &ty.shape[axis]);
            let fill = match result {
                Some(x) => x,
                None => {
                    let elem = elem_of(ty.dtype)?;
                    b.zero(RegTy::scalar(elem))
                }
            };
            result = Some(self.guarded(b, operand, &inner, axis, n, fill)?);
            let minus_n = b.sub(0, n);
            inner[axis] = self.index(b).add(inner[axis], Idx::Uniform(minus_n));
        }
        result.ok_or(LowerError::MissingOperand { op: "concat" })
    }

    /// The element of `value` at `idx` where `0 <= idx[axis] < n`, `fill` elsewhere. Nothing outside is touched.
    pub(crate) fn guarded(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
        idx: &[Idx],
        axis: usize,
        n: Reg,
        fill: Reg,
    ) -> Result<Reg, LowerError> {
        if let Idx::Uniform(i) = idx[axis] {
            let (from, below) = (b.ge(i, 0), b.lt(i, n));
            let inside = b.and(from, below);
            let vector = self.lanes > 1 && idx.iter().any(|i| !matches!(i, Idx::Uniform(_)));
            let fill = if vector { self.widen(b, fill) } else { fill };
            let var = b.var_init(fill);
            let mut result = Ok(());
            b.if_(inside, |b| {
                self.scope(|cx| {
                    result = cx.get(b, value, idx).map(|x| {
                        let x = if vector { cx.widen(b, x) } else { x };
                        b.assign(var, x);
                    });
                });
            });
            result?;
            // A variable must not be reused by folding; a copy of it is a plain register.
            let elem = b.ty(var).elem();
            return Ok(b.cast(var, elem));
        }
        let at = self.index(b).vector(idx[axis]);
        let limit = b.splat(n, self.lanes);
        let (from, below) = (b.ge(at, 0), b.lt(at, limit));
        let mut inside = b.and(from, below);
        if let Some(mask) = self.mask {
            inside = b.and(inside, mask);
        }
        let x = self.masked(Some(inside), |cx| cx.get_wide(b, value, idx))?;
        let fill = self.widen(b, fill);
        Ok(b.select(inside, x, fill))
    }

    /// A gather index: negative ones count from the end; what is outside is clamped into the axis.
    fn clamp_index(&mut self, b: &mut KernelBuilder, at: Reg, n: Reg) -> Reg {
        let n = if b.lanes(at) == 1 { n } else { b.splat(n, self.lanes) };
        let wrapped = b.add(at, n);
        let negative = b.lt(at, 0);
        let at = b.select(negative, wrapped, at);
        let last = b.sub(n, 1);
        let at = b.min(at, last);
        b.max(at, 0)
    }
}
