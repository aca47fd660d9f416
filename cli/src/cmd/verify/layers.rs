//! Kernel by kernel: what each launch writes against the interpreter's value of the same node.

use super::{Call, buffers, pair};
use crate::compare::{Difference, Tolerance, compare};
use crate::failure::{Failure, Kind, Outcome};
use serde_json::{Value, json};
use ssmc::CompiledProgram;
use ssmc_artifact::{BufferKind, Launch};
use ssmc_ir::{Interpreter, Place, Plan, Tensor, ValueId};
use ssmc_runtime::{LaunchObserver, LaunchView, Session, State};
use std::collections::{BTreeMap, BTreeSet};

/// The comparison of one tensor that a launch wrote.
pub(super) struct Layer {
    program: String,
    pub(super) launch: usize,
    /// The argument of the launch that was compared.
    pub(super) arg: usize,
    op: &'static str,
    value: ValueId,
    locations: Vec<String>,
    /// What the argument should hold.
    pub(super) truth: Tensor,
    pub(super) difference: Difference,
}

impl Layer {
    /// The bytes of what was compared.
    pub(super) fn n_bytes(&self) -> usize {
        (self.truth.len() * self.truth.dtype().bits()).div_ceil(8)
    }

    pub(super) fn describe(&self) -> String {
        let place = self.locations.join(", ");
        let d = &self.difference;
        let at = d
            .worst
            .map(|(i, expected, found)| format!(" at element {i}: expected {expected}, found {found}"));
        let at = at.unwrap_or_default();
        format!("{} launch {} ({}, {}) from {place}{at}", self.program, self.launch, self.op, self.value)
    }

    pub(super) fn row(&self) -> Vec<String> {
        vec![
            if self.difference.passed() { "  ok" } else { "  FAILED" }.to_owned(),
            format!("{} {}", self.program, self.launch),
            self.op.to_owned(),
            format!("error {:.2e} of {:.2e}", self.difference.error, self.difference.peak),
            self.locations.last().cloned().unwrap_or_default(),
        ]
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "program": self.program, "launch": self.launch, "op": self.op, "value": self.value.to_string(),
            "locations": self.locations, "difference": self.difference.to_json(),
        })
    }
}

/// Runs a call again and compares everything that its kernels write, in order.
pub(super) fn compare_layers(
    program: &CompiledProgram,
    call: &Call<'_>,
    session: &mut Session,
    mut state: Option<State>,
    tolerance: Tolerance,
) -> Outcome<Vec<Layer>> {
    let truth = values(program, call)?;
    let launches = session.program(call.program)?.launches.clone();
    let watches = launches.iter().zip(&program.plan.groups).map(|(launch, group)| {
        let of = |value: &ValueId| Some((*value, argument(program, launch, *value)?));
        group.outputs.iter().filter_map(of).collect::<Vec<_>>()
    });
    let mut watcher = Watcher { watches: watches.collect(), truth: &truth, tolerance, found: Vec::new() };
    watch(call, session, state.as_mut(), &mut watcher)?;
    let layer = |(launch, value, arg, difference): (usize, ValueId, usize, Difference)| {
        let group = &program.plan.groups[launch];
        Layer {
            program: call.program.to_owned(),
            launch,
            arg,
            op: program.plan.graph.node(group.root).op.name(),
            value,
            locations: launches[launch].locations.clone(),
            truth: truth[&value].clone(),
            difference,
        }
    };
    Ok(watcher.found.into_iter().map(layer).collect())
}

/// Runs a call and shows its launches to the observer.
pub(super) fn watch(
    call: &Call<'_>,
    session: &mut Session,
    state: Option<&mut State>,
    observer: &mut dyn LaunchObserver,
) -> Outcome {
    let buffers = buffers(&call.inputs)?;
    let views: Vec<_> = buffers.iter().map(|(name, buffer)| (*name, buffer.view())).collect();
    session.run_observed(call.program, state.map(|state| (state, 1)), &views, observer)?;
    Ok(())
}

/// What the interpreter computes for every value that a kernel writes.
fn values(program: &CompiledProgram, call: &Call<'_>) -> Outcome<BTreeMap<ValueId, Tensor>> {
    let Plan { graph, groups, .. } = &program.plan;
    let wanted: BTreeSet<ValueId> = groups.iter().flat_map(|group| group.outputs.iter().copied()).collect();
    let mut inputs = call.inputs.clone();
    inputs.extend(call.states.iter().map(pair));
    let mut found = BTreeMap::new();
    Interpreter::new(graph, &program.weights)
        .run_observed(&inputs, &mut |value, tensor| {
            if wanted.contains(&value) {
                found.insert(value, tensor.clone());
            }
        })
        .map_err(ssmc::Error::from)?;
    if found.len() != wanted.len() {
        return Err(Failure::new(Kind::Internal, "the interpreter does not reach every kernel's outputs"));
    }
    Ok(found)
}

/// The argument of the launch that holds the value.
fn argument(program: &CompiledProgram, launch: &Launch, value: ValueId) -> Option<usize> {
    let graph = &program.plan.graph;
    let is_state = |name: &str| program.states.iter().any(|state| state == name);
    let place = program.plan.places.get(&value)?;
    launch.args.iter().position(|arg| match place {
        Place::Slot(slot) => arg.kind() == BufferKind::Slot && arg.index as usize == *slot,
        Place::Output(i) => {
            let rank = |state: bool| {
                graph.outputs()[..*i].iter().filter(|port| is_state(&port.name) == state).count()
            };
            if is_state(&graph.outputs()[*i].name) {
                let name = &graph.outputs()[*i].name;
                let index = program.states.iter().position(|state| state == name);
                arg.kind() == BufferKind::StateOut && Some(arg.index as usize) == index
            } else {
                arg.kind() == BufferKind::Output && arg.index as usize == rank(false)
            }
        }
        Place::Input(_) | Place::Weight => false,
    })
}

/// Compares the arguments that each launch writes, once it has run.
struct Watcher<'a> {
    /// Per launch the values that it writes and the arguments that hold them.
    watches: Vec<Vec<(ValueId, usize)>>,
    truth: &'a BTreeMap<ValueId, Tensor>,
    tolerance: Tolerance,
    /// Launch, value, argument and what they differ by.
    found: Vec<(usize, ValueId, usize, Difference)>,
}

impl LaunchObserver for Watcher<'_> {
    fn before(&mut self, _: &LaunchView<'_>) {}

    fn after(&mut self, launch: &LaunchView<'_>) {
        for (value, arg) in self.watches.get(launch.launch).into_iter().flatten() {
            let expected = &self.truth[value];
            let length = (expected.len() * expected.dtype().bits()).div_ceil(8);
            let bytes = launch.args.get(*arg).and_then(|bytes| bytes.get(..length));
            let found = bytes.and_then(|b| Tensor::from_bytes(expected.dtype(), expected.shape(), b).ok());
            let found = found.map_or_else(Vec::new, |tensor| tensor.to_f64());
            let difference = compare(&expected.to_f64(), &found, self.tolerance).unwrap_or(Difference {
                error: f64::INFINITY,
                peak: 0.0,
                ratio: f64::INFINITY,
                worst: None,
            });
            self.found.push((launch.launch, *value, *arg, difference));
        }
    }
}
