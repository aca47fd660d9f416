//! Reads values of a graph as runs, forward from decays and inputs.

use super::super::form::{Axis, Form, Gap, Leaf, MAX_ENTRIES, n_cells};
use super::super::layout::{self, extent};
use super::super::names::{Labels, List};
use super::super::read::{Axes, Reader};
use super::runs::{self, Run, Runs};
use super::seed::Steps;
use crate::view;
use ssmc_ir::ops::{Binary, BinaryFn, Op, ScatterFn, Spec};
use ssmc_ir::{Dim, Graph, Node, ValueId, Weights};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Follows the combinations of one pair of decays and inputs.
pub(super) struct Follower<'a> {
    graph: &'a Graph,
    /// Reads masks and fills.
    constants: Reader<'a>,
    pub(super) labels: Labels,
    known: BTreeMap<ValueId, Rc<Form<Runs>>>,
    pub(super) decays: Leaf,
    pub(super) inputs: Leaf,
    pub(super) n_steps: usize,
}

fn operand(node: &Node, i: usize) -> Result<ValueId, Gap> {
    node.operands.get(i).copied().flatten().ok_or(Gap::Op { op: node.op.name() })
}

impl<'a> Follower<'a> {
    /// Starts from the two tensors; in reverse the last step comes first.
    pub(super) fn new(
        graph: &'a Graph,
        weights: &'a Weights,
        (a, b): (Steps, Steps),
        reverse: bool,
    ) -> Result<Self, Gap> {
        let mut labels = Labels::default();
        let mut leaf = |(value, axis): Steps| -> Result<Leaf, Gap> {
            let mut axes = Vec::new();
            for (i, dim) in graph.ty(value).shape.iter().enumerate() {
                axes.push(match (i == axis, dim.is(1)) {
                    (true, _) => Axis::Time(extent(dim)?),
                    (false, true) => Axis::Free(Vec::new()),
                    (false, false) => Axis::Free(vec![labels.fresh(dim.clone())]),
                });
            }
            Ok(Leaf { value, axes })
        };
        let (decays, inputs) = (leaf(a)?, leaf(b)?);
        let n_steps = n_cells(&inputs.axes);
        if n_steps > MAX_ENTRIES {
            return Err(Gap::TooLarge);
        }
        let step = |i: u32| if reverse { n_steps as u32 - 1 - i } else { i };
        let lists = |leaf: &Leaf| Some(leaf.labels().map(|l| vec![l]).collect::<Vec<List>>());
        let cells = |run: fn(u32) -> Run| (0..n_steps as u32).map(|i| run(step(i))).collect();
        let a = Runs { a: lists(&decays), b: None, cells: cells(|t| Run::Decays { from: t, to: t + 1 }) };
        let b = Runs {
            a: None,
            b: lists(&inputs),
            cells: cells(|t| Run::State { from: t, to: t + 1, until: t + 1 }),
        };
        let known = BTreeMap::from([
            (decays.value, Rc::new(Form { axes: decays.axes.clone(), body: a })),
            (inputs.value, Rc::new(Form { axes: inputs.axes.clone(), body: b })),
        ]);
        let constants = Reader::of_numbers(graph, weights);
        Ok(Self { graph, constants, labels, known, decays, inputs, n_steps })
    }

    pub(super) fn known(&self, value: ValueId) -> Option<&Rc<Form<Runs>>> {
        self.known.get(&value)
    }

    /// Reads the result of a node of which an operand is known.
    pub(super) fn advance(&mut self, node: &Node) -> Result<(), Gap> {
        let [result] = node.results[..] else { return Err(Gap::Op { op: node.op.name() }) };
        if !self.known.contains_key(&result) {
            let form = self.derive(node)?;
            self.known.insert(result, Rc::new(form));
        }
        Ok(())
    }

    /// An operand with at least these axes of steps: one that is known, or numbers.
    fn get(&mut self, value: ValueId, times: &Axes) -> Result<Form<Runs>, Gap> {
        if let Some(form) = self.known.get(&value) {
            return Ok((**form).clone());
        }
        let shape = &self.graph.ty(value).shape;
        if let Some(x) = view::splat(self.graph, value) {
            let axis = |dim: &Dim| match dim.is(1) {
                true => Axis::Free(Vec::new()),
                false => Axis::Free(vec![self.labels.fresh(dim.clone())]),
            };
            let axes = shape.iter().map(axis).collect();
            return Ok(Form { axes, body: Runs::constant(vec![Run::number(x)]) });
        }
        let form = self.constants.get(value, times)?;
        let numbers = form.numbers().ok_or(Gap::Op { op: "product" })?;
        let axes = (form.axes.iter().zip(shape.iter())).map(|(axis, dim)| match axis {
            Axis::Time(n) => Axis::Time(*n),
            Axis::Free(_) if dim.is(1) => Axis::Free(Vec::new()),
            Axis::Free(_) => Axis::Free(vec![self.labels.fresh(dim.clone())]),
        });
        let axes = axes.collect();
        Ok(Form { axes, body: Runs::constant(numbers.into_iter().map(Run::number).collect()) })
    }

    /// Operands of one shape, with the axes of steps of all of them where only numbers do without.
    fn operands(&mut self, values: &[ValueId]) -> Result<Vec<Form<Runs>>, Gap> {
        let is_time = |form: &Rc<Form<Runs>>| -> Axes {
            (0..form.axes.len()).filter(|i| form.axes[*i].is_time()).collect()
        };
        let times: Axes = values.iter().filter_map(|v| self.known.get(v)).flat_map(is_time).collect();
        values.iter().map(|v| self.get(*v, &times)).collect()
    }

    fn derive(&mut self, node: &Node) -> Result<Form<Runs>, Gap> {
        let unknown = Gap::Op { op: node.op.name() };
        let graph = self.graph;
        let shape = &graph.ty(node.results[0]).shape;
        let none = Axes::new();
        match &node.op {
            Op::Transpose(op) => layout::transpose(&self.get(operand(node, 0)?, &none)?, &op.perm),
            Op::Broadcast(op) => {
                let x = self.get(operand(node, 0)?, &none)?;
                layout::broadcast(&x, &op.axes, &op.shape, &mut self.labels)
            }
            Op::Reshape(op) => {
                let x = operand(node, 0)?;
                let form = self.get(x, &none)?;
                layout::reshape(&form, &graph.ty(x).shape, &op.shape, &mut self.labels)
            }
            Op::Cast(op) if op.to.is_float() && graph.ty(operand(node, 0)?).dtype.is_float() => {
                self.get(operand(node, 0)?, &none)
            }
            Op::Slice(op) => {
                let form = self.along(node, op.axis)?;
                let (start, n) = (extent(&op.start)? as i64, extent(&op.len)? as i64);
                let from: Vec<_> = (0..n).map(|i| usize::try_from(start + i * op.stride).ok()).collect();
                layout::along(&form, op.axis, &from)
            }
            Op::Reverse(op) => {
                let form = self.along(node, op.axis)?;
                let n = extent(&shape[op.axis])?;
                layout::along(&form, op.axis, &(0..n).rev().map(Some).collect::<Vec<_>>())
            }
            Op::Pad(op) => {
                let fill = view::splat(graph, operand(node, 1)?).ok_or(unknown)?;
                let form = self.along(node, op.axis)?;
                let (low, n) = (op.low.as_const().ok_or(Gap::Symbolic)?, extent(&shape[op.axis])?);
                let inner = extent(&graph.ty(operand(node, 0)?).shape[op.axis])?;
                let source = |i: usize| usize::try_from(i as i64 - low).ok().filter(|i| *i < inner);
                let from: Vec<_> = (0..n).map(source).collect();
                let form = layout::along(&form, op.axis, &from)?;
                if fill == 0.0 {
                    return Ok(form);
                }
                let outside = from.iter().map(|i| if i.is_none() { Run::number(fill) } else { Run::Zero });
                let outside = self.line(shape, op.axis, outside.collect());
                runs::sum(&form, &outside, &mut self.labels)
            }
            Op::Concat(op) => {
                let mut forms = Vec::new();
                for x in node.operands.iter().flatten() {
                    let form = self.get(*x, &Axes::from([op.axis]))?;
                    let n = extent(&graph.ty(*x).shape[op.axis])?;
                    forms.push(form.with_time(op.axis, n)?);
                }
                layout::concat(&forms, op.axis, &mut self.labels, &mut runs::sum)
            }
            Op::Scatter(op) if op.f == ScatterFn::Set => self.scatter(node),
            Op::Select(_) => {
                let values: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
                let mut forms = self.operands(&values)?;
                // The mask is written over all axes of steps of the result.
                for axis in 0..shape.rank() {
                    if forms.iter().any(|f| f.axes[axis].is_time()) {
                        let n = extent(&shape[axis])?;
                        for form in &mut forms {
                            *form = form.with_time(axis, n)?;
                        }
                    }
                }
                let cond = |run: &Run| match run {
                    Run::Zero => Ok(false),
                    run if *run == Run::ONE => Ok(true),
                    _ => Err(Gap::Op { op: "select" }),
                };
                let cond = forms[0].body.cells.iter().map(cond).collect::<Result<Vec<_>, Gap>>()?;
                runs::select(&cond, &forms[1], &forms[2], &mut self.labels)
            }
            Op::Binary(Binary { f: f @ (BinaryFn::Add | BinaryFn::Mul) }) => {
                let forms = self.operands(&[operand(node, 0)?, operand(node, 1)?])?;
                let join = if *f == BinaryFn::Add { runs::sum } else { runs::product };
                join(&forms[0], &forms[1], &mut self.labels)
            }
            Op::Contract(op) if op.spec.summed().is_empty() => self.product(node, &op.spec, shape),
            _ => Err(unknown),
        }
    }

    /// The first operand with this axis counted as steps if it is of extent 1.
    fn along(&mut self, node: &Node, axis: usize) -> Result<Form<Runs>, Gap> {
        let x = operand(node, 0)?;
        let form = self.get(x, &Axes::new())?;
        if self.graph.ty(x).shape[axis].is(1) { form.with_time(axis, 1) } else { Ok(form) }
    }

    /// Numbers that vary along one axis.
    fn line(&mut self, shape: &[Dim], axis: usize, cells: Vec<Run>) -> Form<Runs> {
        let axes = shape.iter().enumerate().map(|(i, dim)| match (i == axis, dim.is(1)) {
            (true, _) => Axis::Time(cells.len()),
            (false, true) => Axis::Free(Vec::new()),
            (false, false) => Axis::Free(vec![self.labels.fresh(dim.clone())]),
        });
        Form { axes: axes.collect(), body: Runs::constant(cells) }
    }

    /// Rows replaced at known indices.
    fn scatter(&mut self, node: &Node) -> Result<Form<Runs>, Gap> {
        let (x, at, updates) = (operand(node, 0)?, operand(node, 1)?, operand(node, 2)?);
        let n = extent(&self.graph.ty(x).shape[0])?;
        let rows = extent(&self.graph.ty(updates).shape[0])?;
        let time = Axes::from([0]);
        let at = self.constants.get(at, &time)?.numbers().ok_or(Gap::Op { op: "scatter" })?;
        let mut from = vec![None; n];
        for (m, i) in at.iter().enumerate() {
            let i = if *i < 0.0 { i + n as f64 } else { *i };
            *from.get_mut(i as usize).ok_or(Gap::Op { op: "scatter" })? = Some(m);
        }
        let kept: Vec<Option<usize>> =
            from.iter().enumerate().map(|(i, m)| m.is_none().then_some(i)).collect();
        let x = self.get(x, &time)?.with_time(0, n)?;
        let updates = self.get(updates, &time)?.with_time(0, rows)?;
        let (x, updates) = (layout::along(&x, 0, &kept)?, layout::along(&updates, 0, &from)?);
        runs::sum(&x, &updates, &mut self.labels)
    }

    /// A product over labelled axes.
    fn product(&mut self, node: &Node, spec: &Spec, shape: &[Dim]) -> Result<Form<Runs>, Gap> {
        let mut joined: Option<Form<Runs>> = None;
        let known: Vec<u8> = (spec.inputs.iter().zip(node.operands.iter().flatten()))
            .filter_map(|(labels, v)| Some((labels, self.known.get(v)?)))
            .flat_map(|(labels, form)| labels.iter().zip(&form.axes).filter(|(_, a)| a.is_time()))
            .map(|(label, _)| *label)
            .collect();
        for (labels, x) in spec.inputs.iter().zip(node.operands.iter().flatten()) {
            let times = (0..labels.len()).filter(|i| known.contains(&labels[*i])).collect();
            let form = self.get(*x, &times)?;
            let mut order: Vec<usize> = (0..labels.len()).collect();
            let place = |i: &usize| spec.output.iter().position(|l| *l == labels[*i]);
            order.sort_by_key(place);
            let to: Vec<usize> = order.iter().filter_map(place).collect();
            if to.len() != labels.len() || to.windows(2).any(|w| w[0] == w[1]) {
                return Err(Gap::Op { op: "product" });
            }
            let form = layout::transpose(&form, &order)?;
            let form = layout::broadcast(&form, &to, shape, &mut self.labels)?;
            joined = Some(match joined {
                None => form,
                Some(joined) => runs::product(&joined, &form, &mut self.labels)?,
            });
        }
        joined.ok_or(Gap::Op { op: "product" })
    }
}
