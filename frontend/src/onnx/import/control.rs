//! `Scan`, `Loop` and `If`: regions with explicit captures.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Failure, Imported, Special, Val};
use super::super::proto::{GraphProto, NodeProto, ValueInfoProto};
use super::super::shape::{self, Known};
use super::sequence;
use super::trips::{Counter, Trips};
use super::unroll;
use ssmc_ir::ops;
use ssmc_ir::{DType, Dim, Graph, Shape, TensorType};
use std::collections::BTreeSet;

/// A tensor that a loop walks along one axis.
struct Scanned {
    value: Val,
    axis: usize,
    reverse: bool,
}

/// How the slices of one loop output are put together.
#[derive(Clone, Copy)]
struct Stacked {
    axis: i64,
    reverse: bool,
}

/// An input of a region: its name in the ONNX body, and its type or its known elements.
struct Formal<'m> {
    name: &'m str,
    ty: TensorType,
}

/// Names the inputs of a body; the declared element types must agree.
fn formals<'m>(
    inputs: impl Iterator<Item = &'m ValueInfoProto>,
    types: Vec<TensorType>,
) -> Result<Vec<Formal<'m>>, Fault> {
    let inputs: Vec<&ValueInfoProto> = inputs.collect();
    if inputs.len() != types.len() {
        return Err(Fault::Mismatch {
            what: "body inputs".into(),
            expected: types.len().to_string(),
            found: inputs.len().to_string(),
        });
    }
    inputs
        .into_iter()
        .zip(types)
        .map(|(input, ty)| {
            if let Some(declared) = super::super::types::declared_dtype(input)?
                && declared != ty.dtype
            {
                return Err(Fault::Mismatch {
                    what: format!("body input {:?}", input.name()),
                    expected: ty.dtype.to_string(),
                    found: declared.to_string(),
                });
            }
            Ok(Formal { name: input.name(), ty })
        })
        .collect()
}

/// The type of one slice along an axis.
fn slice_type(ty: &TensorType, axis: usize) -> TensorType {
    let mut dims = ty.shape.to_vec();
    dims.remove(axis);
    ty.with_shape(dims)
}

/// Imports a body into a region of its own; `open` adds the region's inputs, which `pick` gets to choose its outputs.
fn region<'m, T>(
    c: &mut Ctx<'_, 'm>,
    name: &str,
    body: &'m GraphProto,
    open: impl FnOnce(&mut Ctx<'_, 'm>) -> Result<T, Fault>,
    pick: impl FnOnce(&mut Ctx<'_, 'm>, T, Vec<Val>) -> Result<Vec<Val>, Fault>,
) -> Imported<(Graph, Vec<Val>)> {
    c.imp.open_region(name);
    let outputs = open(c).map_err(Failure::from).and_then(|opened| {
        c.imp.initializers(body);
        c.imp.nodes(&body.node)?;
        let outputs = c.imp.outputs(body)?;
        Ok(pick(c, opened, outputs)?)
    });
    let named = outputs.and_then(|outputs| {
        let names = outputs.iter().enumerate().map(|(i, v)| (format!("out_{i}"), *v));
        Ok(c.imp.region_outputs(&names.collect::<Vec<_>>())?)
    });
    let region = c.imp.close_region();
    named.map(|()| region)
}

/// Builds a `loop`. `count` is the body input for the iteration number, where the operator has one.
struct LoopPlan<'m> {
    body: &'m GraphProto,
    count: Option<&'m str>,
    /// A body input that is true in every iteration.
    condition: Option<&'m str>,
    formals: Vec<Formal<'m>>,
    carried: Vec<Val>,
    scanned: Vec<Scanned>,
    /// What the body appends to.
    sequences: Vec<Appended<'m>>,
    trips: Trips,
}

/// A carried sequence, or a tensor that grows, to which the body appends one tensor in each iteration.
struct Appended<'m> {
    /// The place among all that is carried.
    at: usize,
    /// The name in the body.
    name: &'m str,
    /// The tensor to start from and the axis along which it grows.
    grown: Option<(Val, usize)>,
}

impl<'m> LoopPlan<'m> {
    /// `stacked` says how each body output after the carried ones is stacked; the results are the last carried values
    /// and the stacked tensors.
    fn build(
        self,
        c: &mut Ctx<'_, 'm>,
        stacked: impl FnOnce(&Ctx<'_, 'm>, usize) -> Result<Vec<Stacked>, Fault>,
    ) -> Imported<Vec<Val>> {
        let Self { body, count, condition, formals, carried, scanned, sequences, trips } = self;
        let types: Vec<TensorType> = carried.iter().map(|v| c.ty(*v).clone()).collect();
        let has_condition = condition.is_some();
        let mut trip_count = Dim::from(0);
        let (graph, captures) = region(
            c,
            "body",
            body,
            |c| {
                let mut inputs = Vec::new();
                let iteration = c.imp.region_input("iteration", TensorType::new(DType::I64, Shape::scalar()));
                inputs.push(iteration);
                if let Some(name) = count {
                    c.imp.bind(name, Some(iteration));
                }
                if let Some(name) = condition {
                    let yes = Known { dtype: DType::Bool, shape: Vec::new(), elems: vec![Dim::from(1)] };
                    let yes = c.make_known(yes);
                    c.imp.bind(name, Some(yes));
                }
                for Appended { name, .. } in &sequences {
                    let open = c.imp.special_value(Special::Open(Vec::new()));
                    c.imp.bind(name, Some(open));
                }
                for formal in formals {
                    let value = c.imp.region_input(formal.name, formal.ty);
                    inputs.push(value);
                    c.imp.bind(formal.name, Some(value));
                }
                Ok(inputs)
            },
            |c, inputs, mut outputs| {
                if has_condition && outputs.is_empty() {
                    return Err(Fault::OutputCount { expected: "at least 1".into(), found: 0 });
                }
                let goes_on = has_condition.then(|| outputs.remove(0));
                let n_carried = types.len() + sequences.len();
                if outputs.len() < n_carried {
                    let expected = format!("at least {n_carried} body outputs");
                    return Err(Fault::OutputCount { expected, found: outputs.len() });
                }
                let mut appended = Vec::new();
                for Appended { at, .. } in sequences.iter().rev() {
                    let sequence = outputs.remove(*at);
                    match c.imp.special(sequence) {
                        Some(Special::Open(all)) if all.len() == 1 => appended.push(all[0]),
                        _ => {
                            let what =
                                "a loop that does not append one tensor to a sequence in each iteration";
                            return Err(Fault::Unsupported(what.into()));
                        }
                    }
                }
                outputs.extend(appended.into_iter().rev());
                for (i, (ty, v)) in types.iter().zip(&outputs).enumerate() {
                    if c.ty(*v) != ty {
                        let (found, what) = (c.ty(*v), format!("carried value {i}"));
                        return Err(if found.dtype == ty.dtype {
                            Fault::Unsupported(format!("{what} that changes its shape from {ty} to {found}"))
                        } else {
                            Fault::Mismatch { what, expected: ty.to_string(), found: found.to_string() }
                        });
                    }
                }
                let states = inputs[1..].iter().zip(&outputs).zip(&carried);
                let counters: Vec<Counter> = states
                    .filter(|((_, next), _)| c.dtype(**next).is_int())
                    .map(|((state, next), initial)| Counter { state: *state, next: *next, initial: *initial })
                    .collect();
                trip_count = trips.count(c, goes_on, inputs[0], &counters)?;
                Ok(outputs)
            },
        )?;
        let slices: Vec<usize> =
            graph.outputs()[carried.len()..].iter().map(|o| graph.ty(o.value).rank()).collect();
        let stacked = stacked(c, slices.len())?;
        if stacked.len() != slices.len() {
            let (expected, found) = (format!("{} stacked body outputs", stacked.len()), slices.len());
            return Err(Fault::OutputCount { expected, found }.into());
        }
        let stack_axes = stacked
            .iter()
            .zip(&slices)
            .map(|(s, rank)| shape::axis(s.axis, rank + 1))
            .collect::<Result<Vec<_>, _>>()?;
        let op = ops::Loop {
            n_carried: carried.len(),
            scan_axes: scanned.iter().map(|s| s.axis).collect(),
            scan_reverse: scanned.iter().map(|s| s.reverse).collect(),
            stack_axes,
            stack_reverse: stacked.iter().map(|s| s.reverse).collect(),
            trip_count,
        };
        let operands: Vec<Option<Val>> = carried
            .iter()
            .copied()
            .chain(scanned.iter().map(|s| s.value))
            .chain(captures)
            .map(Some)
            .collect();
        let mut results = c.emit_all(op, &operands, vec![graph])?;
        let stacks = results.split_off(results.len() - sequences.len());
        for (Appended { at, grown, .. }, stack) in sequences.iter().zip(stacks) {
            let whole = match grown {
                None => c.imp.special_value(Special::Stacked(stack)),
                Some((first, axis)) => {
                    if c.rank(stack) != c.rank(*first) + 1 {
                        let expected = format!("a part of {} axes to join", c.rank(*first));
                        let found = c.ty(stack).shape.to_string();
                        return Err(Fault::Mismatch { what: "body".into(), expected, found }.into());
                    }
                    let rest = sequence::joined(c, stack, *axis, false)?;
                    let is_empty = c.ty(*first).shape[*axis].is(0);
                    if is_empty { rest } else { c.concat(&[*first, rest], *axis)? }
                }
            };
            results.insert(*at, whole);
        }
        Ok(results)
    }
}

/// A list attribute with one entry per tensor, all `0` if absent.
fn per_tensor(c: &Ctx<'_, '_>, name: &'static str, n: usize) -> Result<Vec<i64>, Fault> {
    match c.attrs.ints(name)? {
        None => Ok(vec![0; n]),
        Some(list) if list.len() == n => Ok(list.to_vec()),
        Some(list) => Err(c.attrs.wrong(name, format!("{n} entries"), format!("{list:?}"))),
    }
}

fn directions(c: &Ctx<'_, '_>, name: &'static str, n: usize) -> Result<Vec<bool>, Fault> {
    per_tensor(c, name, n)?
        .into_iter()
        .map(|d| match d {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(c.attrs.wrong(name, "0 or 1", other)),
        })
        .collect()
}

/// Divides the inputs of a `Scan` from `first` on into states and scanned tensors.
fn states_and_scanned(c: &Ctx<'_, '_>, first: usize) -> Result<(Vec<Val>, Vec<Val>), Fault> {
    let n = c.attrs.int("num_scan_inputs")?.ok_or(Fault::MissingAttribute { name: "num_scan_inputs" })?;
    let total = c.n_inputs().saturating_sub(first);
    let n_states = usize::try_from(n)
        .ok()
        .filter(|n| *n > 0)
        .and_then(|n| total.checked_sub(n))
        .ok_or_else(|| c.attrs.wrong("num_scan_inputs", format!("1 to {total}"), n))?;
    let values = (first..c.n_inputs()).map(|i| c.input(i)).collect::<Result<Vec<_>, _>>()?;
    Ok((values[..n_states].to_vec(), values[n_states..].to_vec()))
}

/// The common extent of scan axes.
fn trip_count(c: &Ctx<'_, '_>, scanned: &[Scanned]) -> Result<Dim, Fault> {
    let extents: Vec<Dim> = scanned.iter().map(|s| c.ty(s.value).shape[s.axis].clone()).collect();
    let first = extents.first().ok_or(Fault::MissingInput { idx: 0 })?;
    match extents.iter().find(|e| *e != first) {
        None => Ok(first.clone()),
        Some(other) if other.as_const().is_some() && first.as_const().is_some() => Err(Fault::Mismatch {
            what: "scan inputs".into(),
            expected: format!("extent {first} along the scan axis"),
            found: other.to_string(),
        }),
        Some(other) => Err(Fault::Unproven(format!("the scan extents {first} and {other} are equal"))),
    }
}

/// `Scan` from version 9 on.
pub(crate) fn scan(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (states, values) = states_and_scanned(c, 0)?;
    let body = c.attrs.graph("body")?;
    let axes = per_tensor(c, "scan_input_axes", values.len())?;
    let reverse = directions(c, "scan_input_directions", values.len())?;
    let mut scanned = Vec::new();
    for ((value, axis), reverse) in values.into_iter().zip(axes).zip(reverse) {
        let axis = shape::axis(axis, c.rank(value))?;
        scanned.push(Scanned { value, axis, reverse });
    }
    let types = states.iter().map(|v| c.ty(*v).clone());
    let types = types.chain(scanned.iter().map(|s| slice_type(c.ty(s.value), s.axis))).collect();
    let plan = LoopPlan {
        body,
        count: None,
        condition: None,
        formals: formals(body.input.iter(), types)?,
        trips: Trips::given(trip_count(c, &scanned)?),
        carried: states,
        scanned,
        sequences: Vec::new(),
    };
    plan.build(c, |c, n| {
        let axes = per_tensor(c, "scan_output_axes", n)?;
        let reverse = directions(c, "scan_output_directions", n)?;
        Ok(axes.into_iter().zip(reverse).map(|(axis, reverse)| Stacked { axis, reverse }).collect())
    })
}

/// `Scan` of version 8: every tensor has a batch axis in front, which the body does not see. A loop over the batch
/// around a loop over the sequence.
pub(crate) fn scan_batched(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    if c.opt(0).is_some() {
        return Err(Fault::Unsupported("sequence lengths of a scan".into()).into());
    }
    let (states, values) = states_and_scanned(c, 1)?;
    let body = c.attrs.graph("body")?;
    let reverse = directions(c, "directions", values.len())?;
    for (i, v) in states.iter().chain(&values).enumerate() {
        let low = if i < states.len() { 1 } else { 2 };
        if c.rank(*v) < low {
            let (expected, found) = (format!("at least {low} axes"), c.ty(*v).to_string());
            return Err(Fault::Input { idx: i + 1, expected, found }.into());
        }
    }
    let outer: Vec<Scanned> =
        states.iter().chain(&values).map(|v| Scanned { value: *v, axis: 0, reverse: false }).collect();
    let batch = trip_count(c, &outer)?;
    let item_types: Vec<TensorType> = outer.iter().map(|s| slice_type(c.ty(s.value), 0)).collect();
    c.imp.open_region("batch");
    let inner = inner_scan(c, body, item_types, states.len(), &reverse);
    let inner = inner.and_then(|outputs| {
        let names = outputs.iter().enumerate().map(|(i, v)| (format!("out_{i}"), *v));
        c.imp.region_outputs(&names.collect::<Vec<_>>())?;
        Ok(outputs.len())
    });
    let (graph, captures) = c.imp.close_region();
    let n_outputs = inner?;
    let op = ops::Loop {
        n_carried: 0,
        scan_axes: vec![0; outer.len()],
        scan_reverse: vec![false; outer.len()],
        stack_axes: vec![0; n_outputs],
        stack_reverse: vec![false; n_outputs],
        trip_count: batch,
    };
    let operands: Vec<Option<Val>> = outer.iter().map(|s| s.value).chain(captures).map(Some).collect();
    Ok(c.emit_all(op, &operands, vec![graph])?)
}

/// The loop over the sequence of one batch item, in the region of the loop over the batch.
fn inner_scan<'m>(
    c: &mut Ctx<'_, 'm>,
    body: &'m GraphProto,
    types: Vec<TensorType>,
    n_states: usize,
    reverse: &[bool],
) -> Imported<Vec<Val>> {
    c.imp.region_input("item", TensorType::new(DType::I64, Shape::scalar()));
    let items: Vec<Val> =
        types.into_iter().enumerate().map(|(i, ty)| c.imp.region_input(&format!("item_{i}"), ty)).collect();
    let (states, values) = items.split_at(n_states);
    let scanned: Vec<Scanned> =
        values.iter().zip(reverse).map(|(v, r)| Scanned { value: *v, axis: 0, reverse: *r }).collect();
    let types = states.iter().map(|v| c.ty(*v).clone());
    let types = types.chain(scanned.iter().map(|s| slice_type(c.ty(s.value), 0))).collect();
    let plan = LoopPlan {
        body,
        count: None,
        condition: None,
        formals: formals(body.input.iter(), types)?,
        trips: Trips::given(trip_count(c, &scanned)?),
        carried: states.to_vec(),
        scanned,
        sequences: Vec::new(),
    };
    plan.build(c, |_, n| Ok(vec![Stacked { axis: 0, reverse: false }; n]))
}

/// `Loop`: with a trip count known when compiling (it may be a symbol), given or counted up to by its condition, it is
/// one node.
/// What cannot be, because shapes, sequences or the end follow from the iteration, is written out if it is short.
pub(crate) fn loop_op(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let first_fault = c.imp.n_faults();
    let failure = match loop_node(c) {
        Ok(results) => return Ok(results),
        Err(failure) => failure,
    };
    let is_unsupported = match &failure {
        Failure::Fault(fault) => fault.is_unsupported(),
        Failure::Reported => true,
    };
    match unroll::plan(c)? {
        Some(plan) if is_unsupported && c.imp.retry_from(first_fault, plan.n_nodes()) => plan.build(c),
        _ => Err(failure),
    }
}

/// `Loop` as one node.
fn loop_node(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let body = c.attrs.graph("body")?;
    let limit = match c.opt(0) {
        Some(_) => match c.dims_input(0, "trip count")?.as_slice() {
            [trips] => Some(trips.clone()),
            other => {
                let (expected, found) = ("one trip count".into(), other.len().to_string());
                return Err(Fault::Input { idx: 0, expected, found }.into());
            }
        },
        None => None,
    };
    let trips = match c.opt(1) {
        Some(v) if c.known(v).is_none() => Trips { limit, starts: Some(v) },
        Some(_) if !c.bool_input(1, "the condition before the first iteration")? => {
            Trips::given(Dim::from(0))
        }
        _ => Trips { limit, starts: None },
    };
    let (mut carried, mut sequences) = (Vec::new(), Vec::new());
    for idx in 2..c.n_inputs() {
        let v = c.input(idx)?;
        match c.imp.special(v) {
            None => match grows(body, idx) {
                Some((name, axis)) => {
                    let axis = shape::axis(axis, c.rank(v))?;
                    sequences.push(Appended { at: idx - 2, name, grown: Some((v, axis)) });
                }
                None => carried.push(v),
            },
            Some(Special::List(list)) if list.is_empty() => {
                let name = body.input.get(idx).map_or("", |input| input.name());
                sequences.push(Appended { at: idx - 2, name, grown: None });
            }
            Some(_) => {
                return Err(Fault::Unsupported("a loop that carries a sequence with tensors".into()).into());
            }
        }
    }
    let scalar = |dtype| TensorType::new(dtype, Shape::scalar());
    let types = [scalar(DType::I64), scalar(DType::Bool)].into_iter();
    let types = types.chain(carried.iter().map(|v| c.ty(*v).clone())).collect();
    let is_sequence = |i: usize| sequences.iter().any(|s| s.at + 2 == i);
    let inputs = body.input.iter().enumerate().filter(|(i, _)| !is_sequence(*i)).map(|(_, input)| input);
    let mut formals = formals(inputs, types)?;
    let rest = formals.split_off(2);
    let plan = LoopPlan {
        body,
        count: Some(formals[0].name),
        condition: Some(formals[1].name),
        formals: rest,
        carried,
        scanned: Vec::new(),
        sequences,
        trips,
    };
    plan.build(c, |_, n| Ok(vec![Stacked { axis: 0, reverse: false }; n]))
}

/// The name in the body and the axis of a carried tensor that does nothing but grow: the body joins it with one part
/// behind it, and reads neither otherwise.
fn grows(body: &GraphProto, idx: usize) -> Option<(&str, i64)> {
    let input = body.input.get(idx)?.name();
    let output = body.output.get(idx - 1)?.name();
    let by = body.node.iter().find(|n| n.output.iter().any(|o| o == output))?;
    let [first, part] = &by.input[..] else { return None };
    if by.op_type() != "Concat" || !by.domain().is_empty() || first != input || part == input {
        return None;
    }
    let mut names = Vec::new();
    free_names(&body.node, &mut names);
    names.extend(body.output.iter().map(|o| o.name()));
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    let axis = by.attribute.iter().find(|a| a.name() == "axis")?.i();
    (count(input) == 1 && count(output) == 1).then_some((input, axis))
}

/// `If`: the branch that a known condition takes, or both as regions.
pub(crate) fn if_else(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let cond = c.input(0)?;
    let (yes, no) = (c.attrs.graph("then_branch")?, c.attrs.graph("else_branch")?);
    for branch in [yes, no] {
        if !branch.input.is_empty() || branch.output.len() < c.n_outputs() {
            let what = "branch".to_owned();
            let expected = format!("no inputs and {} outputs", c.n_outputs());
            let found = format!("{} and {}", branch.input.len(), branch.output.len());
            return Err(Fault::Mismatch { what, expected, found }.into());
        }
    }
    if let Some([taken]) = c.known(cond).and_then(Known::as_consts).as_deref() {
        let branch = if *taken == 0 { no } else { yes };
        c.imp.open_scope();
        c.imp.initializers(branch);
        let outputs = c.imp.nodes(&branch.node).and_then(|()| c.imp.outputs(branch));
        c.imp.close_scope();
        return outputs;
    }
    let mut names = Vec::new();
    for branch in [yes, no] {
        free_names(&branch.node, &mut names);
        names.extend(branch.output.iter().map(|o| o.name()));
    }
    let shared: BTreeSet<Val> = names.into_iter().filter_map(|name| c.imp.outer_data(name)).collect();
    let shared: Vec<Val> = shared.into_iter().collect();
    let mut graphs = Vec::new();
    for (name, branch) in [("then", yes), ("else", no)] {
        let (graph, captures) = region(
            c,
            name,
            branch,
            |c| c.imp.capture_all(&shared),
            |c, (), outputs| {
                if outputs.iter().any(|v| c.imp.special(*v).is_some()) {
                    let what = "the condition of branches that give sequences or optional values";
                    return Err(Fault::NotKnown { idx: 0, what });
                }
                Ok(outputs)
            },
        )?;
        if captures != shared {
            return Err(Fault::Ir("the branches capture different values".into()).into());
        }
        graphs.push(graph);
    }
    let types =
        |g: &Graph| -> Vec<TensorType> { g.outputs().iter().map(|o| g.ty(o.value).clone()).collect() };
    if types(&graphs[0]) != types(&graphs[1]) {
        let (a, b) = (types(&graphs[0]), types(&graphs[1]));
        return Err(Fault::Unsupported(format!("branches of different types, {a:?} and {b:?}")).into());
    }
    let cond = c.reshape(cond, &[])?;
    let operands: Vec<Option<Val>> = [cond].into_iter().chain(shared).map(Some).collect();
    Ok(c.emit_all(ops::If, &operands, graphs)?)
}

/// Every name that nodes, or graphs inside them, read.
fn free_names<'m>(nodes: &'m [NodeProto], names: &mut Vec<&'m str>) {
    for node in nodes {
        names.extend(node.input.iter().map(String::as_str));
        for graph in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            free_names(&graph.node, names);
            names.extend(graph.output.iter().map(|o| o.name()));
        }
    }
}
