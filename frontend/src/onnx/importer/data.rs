//! From values to nodes of the graph: where they are used as data, and what importers build.

use super::super::fault::Fault;
use super::super::shape::{Known, check_shape};
use super::super::tensor::Literal;
use super::values::known_of;
use super::{Entry, Importer, MAX_INLINE, Val};
use ssmc_ir::dim::Bindings;
use ssmc_ir::ops::{Constant, DimValue, EvalCtx, Op};
use ssmc_ir::{DType, Graph, Loc, Shape, Tensor, TensorType, ValueId, Weight, Weights};
use std::rc::Rc;

impl Importer<'_> {
    /// The IR value of `v` in the present region; captured from the regions around where needed.
    pub(crate) fn data(&mut self, v: Val) -> Result<ValueId, Fault> {
        self.data_in(v, self.regions.len() - 1)
    }

    fn data_in(&mut self, v: Val, depth: usize) -> Result<ValueId, Fault> {
        let id = self.regions[depth].id;
        if let Some(value) = self.entries[v.0].in_region.get(&id) {
            return Ok(*value);
        }
        let entry = &self.entries[v.0];
        if entry.special.is_some() {
            return Err(Fault::Unsupported("a sequence or optional value in place of a tensor".into()));
        }
        let (loc, literal, known) = (entry.loc.clone(), entry.literal.clone(), entry.known.clone());
        let value = match (literal, known) {
            (Some((literal, _)), _) if literal.n_elems() <= MAX_INLINE => {
                let op = Constant {
                    dtype: literal.dtype,
                    shape: literal.ty().shape,
                    data: literal.bytes.as_slice().to_vec(),
                };
                self.source(depth, loc, op)?
            }
            (Some((literal, name)), _) if depth == 0 => self.weight(&literal, &name, loc)?,
            (None, Some(known)) => self.known_data(&known, loc, depth)?,
            _ if depth == 0 => return Err(Fault::Ir("a value outside its region".into())),
            _ => {
                self.data_in(v, depth - 1)?;
                let ty = self.entries[v.0].ty.clone();
                let region = &mut self.regions[depth];
                let name = format!("capture_{}", region.captures.len());
                region.captures.push(v);
                region.builder.input(name, ty)
            }
        };
        self.entries[v.0].in_region.insert(id, value);
        Ok(value)
    }

    fn source(&mut self, depth: usize, loc: Loc, op: impl Into<Op>) -> Result<ValueId, Fault> {
        self.emit_in(depth, loc, op.into(), &[])
    }

    fn emit_in(&mut self, depth: usize, loc: Loc, op: Op, operands: &[ValueId]) -> Result<ValueId, Fault> {
        let builder = &mut self.regions[depth].builder;
        builder.set_loc(loc);
        builder.op(op, operands).map_err(|e| Fault::Ir(e.source.to_string()))
    }

    fn weight(&mut self, literal: &Literal, name: &str, loc: Loc) -> Result<ValueId, Fault> {
        let mut unique = name.to_owned();
        let mut n = 1;
        while self.weights.get(&unique).is_some() {
            n += 1;
            unique = format!("{name}#{n}");
        }
        let ty = literal.ty();
        self.weights.insert(unique.clone(), Weight { ty: ty.clone(), bytes: literal.bytes.clone() });
        let builder = &mut self.regions[0].builder;
        builder.set_loc(loc);
        builder.weight(unique, &ty).map_err(|e| Fault::Ir(e.source.to_string()))
    }

    /// Nodes that make a known integer tensor: a constant, or dims put together.
    fn known_data(&mut self, known: &Known, loc: Loc, depth: usize) -> Result<ValueId, Fault> {
        use ssmc_ir::ops::{Cast, Concat, Reshape};
        let shape = known.ty().shape;
        if let Some(ints) = known.as_consts() {
            let data = ints.iter().flat_map(|x| x.to_le_bytes()[..known.dtype.bits() / 8].to_vec()).collect();
            return self.source(depth, loc, Constant { dtype: known.dtype, shape, data });
        }
        let mut parts = Vec::new();
        for dim in &known.elems {
            let scalar = self.source(depth, loc.clone(), DimValue { value: dim.clone() })?;
            let op = Reshape { shape: Shape::from([1]) }.into();
            parts.push(self.emit_in(depth, loc.clone(), op, &[scalar])?);
        }
        let mut whole = match parts.as_slice() {
            [one] => *one,
            _ => self.emit_in(depth, loc.clone(), Concat { axis: 0 }.into(), &parts)?,
        };
        if known.shape.len() != 1 {
            whole = self.emit_in(depth, loc.clone(), Reshape { shape }.into(), &[whole])?;
        }
        if known.dtype != DType::I64 {
            whole = self.emit_in(depth, loc, Cast { to: known.dtype }.into(), &[whole])?;
        }
        Ok(whole)
    }

    /// Adds a node to the present region.
    pub(crate) fn emit(
        &mut self,
        loc: &Loc,
        op: Op,
        operands: &[Option<Val>],
        regions: Vec<Graph>,
    ) -> Result<Vec<Val>, Fault> {
        let values: Vec<Option<ValueId>> =
            operands.iter().map(|v| v.map(|v| self.data(v)).transpose()).collect::<Result<_, _>>()?;
        let builder = &mut self.region().builder;
        builder.set_loc(loc.clone());
        let op_of_numbers = op.clone();
        let values =
            builder.node(op, &values, regions).map_err(|e| Fault::Ir(format!("{}: {}", e.op, e.source)))?;
        for value in &values {
            check_shape(&builder.ty(*value).shape)?;
        }
        let results: Vec<Val> = values.into_iter().map(|v| self.value(v)).collect();
        if let [result] = results[..]
            && let Some(literal) = self.number(&op_of_numbers, operands)
        {
            self.entries[result.0].known = known_of(&literal);
            self.entries[result.0].literal = Some((Rc::new(literal), String::new()));
        }
        Ok(results)
    }

    /// The value of an elementwise op on single numbers of which one at least is a literal float; integers are followed as dims.
    fn number(&self, op: &Op, operands: &[Option<Val>]) -> Option<Literal> {
        if !matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_)) {
            return None;
        }
        let entries: Vec<&Entry> =
            operands.iter().map(|v| v.map(|v| &self.entries[v.0])).collect::<Option<_>>()?;
        let is_float = |e: &&Entry| e.literal.is_some() && e.ty.dtype.is_float();
        if !entries.iter().any(is_float) || entries.iter().any(|e| !e.ty.shape.n_elems().is(1)) {
            return None;
        }
        let types: Vec<Option<&TensorType>> = entries.iter().map(|e| Some(&e.ty)).collect();
        let results = op.infer(&types, &[]).ok()?;
        let tensors: Vec<Tensor> = entries.into_iter().map(single).collect::<Option<_>>()?;
        let (bindings, weights) = (Bindings::new(), Weights::new());
        let ctx = EvalCtx {
            bindings: &bindings,
            weights: &weights,
            results: &results,
            regions: &[],
            run: &|_, _| Ok(Vec::new()),
        };
        let args: Vec<Option<&Tensor>> = tensors.iter().map(Some).collect();
        let [y] = <[Tensor; 1]>::try_from(op.eval(&ctx, &args).ok()?).ok()?;
        let (dtype, dims) = (y.dtype(), y.shape().to_vec());
        Some(Literal { dtype, narrow: None, dims, bytes: y.to_bytes().into() })
    }
}

/// The tensor of a value of one element that is known when compiling.
fn single(entry: &Entry) -> Option<Tensor> {
    if entry.narrow.is_some() {
        return None;
    }
    if let Some((literal, _)) = &entry.literal {
        return Tensor::from_bytes(literal.dtype, literal.dims.clone(), literal.bytes.as_slice()).ok();
    }
    let known = entry.known.as_ref()?;
    let one = *known.as_consts()?.first()?;
    let bytes = &one.to_le_bytes()[..known.dtype.bits().div_ceil(8)];
    Tensor::from_bytes(known.dtype, known.shape.clone(), bytes).ok()
}
