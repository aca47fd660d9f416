//! Which programs may write states over those they read.

use super::ProgramInput;
use super::kernels::LaunchEntry;
use ssmc_artifact::BufferKind;
use ssmc_ir::ops::Op;
use ssmc_ir::{Graph, Group, Place, ValueId};

/// The state that a kernel reads as `operand` and nowhere else, and writes as `result`; none if it is not the same one.
pub(super) fn state_of<'p>(
    program: &ProgramInput<'p>,
    group: &Group,
    (operand, result): (ValueId, ValueId),
) -> Option<&'p str> {
    let plan = program.plan;
    let graph = &plan.graph;
    let read = |value: ValueId| match plan.places.get(&source(graph, value)) {
        Some(Place::Input(i)) => Some(graph.inputs()[*i].name.as_str()),
        _ => None,
    };
    let written = |value: &&ValueId| match plan.places.get(value) {
        Some(Place::Output(i)) if source(graph, **value) == result => Some(graph.outputs()[*i].name.as_str()),
        _ => None,
    };
    let name = read(operand).filter(|name| program.states.iter().any(|state| state == name))?;
    let is_written = group.outputs.iter().any(|value| written(&value) == Some(name));
    let computes = |node: &&ssmc_ir::Node| !is_view(&node.op);
    let nodes = group.members.iter().map(|id| graph.node(*id)).filter(computes);
    let n_reads =
        nodes.flat_map(|node| node.operands.iter().flatten()).filter(|v| read(**v) == Some(name)).count();
    let is_copied = group.outputs.iter().any(|value| read(*value) == Some(name));
    (is_written && n_reads == 1 && !is_copied).then_some(name)
}

/// Whether no state is read once its place was written, if states before and after lie in the same memory.
pub(super) fn holds(launches: &[LaunchEntry]) -> bool {
    let of_kind = |entry: &LaunchEntry, kind: BufferKind| -> Vec<usize> {
        entry.launch.args.iter().filter(|arg| arg.kind() == kind).map(|arg| arg.index as usize).collect()
    };
    launches.iter().enumerate().all(|(at, writer)| {
        of_kind(writer, BufferKind::StateOut).into_iter().all(|state| {
            launches[at..].iter().enumerate().all(|(later, reader)| {
                let reads = of_kind(reader, BufferKind::StateIn).contains(&state);
                !reads || (later == 0 && writer.updates == Some(state))
            })
        })
    })
}

/// The value whose elements `value` has, in the same order, perhaps converted.
fn source(graph: &Graph, value: ValueId) -> ValueId {
    let mut value = value;
    while let Some(node) = graph.def_node(value).filter(|node| is_view(&node.op)) {
        match node.operands[0] {
            Some(operand) => value = operand,
            None => break,
        }
    }
    value
}

fn is_view(op: &Op) -> bool {
    matches!(op, Op::Cast(_) | Op::Reshape(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssmc_artifact::{BufferRef, Launch};

    /// A launch that reads and writes these states, of which it may update one in place.
    fn launch(reads: &[u32], writes: &[u32], updates: Option<usize>) -> LaunchEntry {
        let of_kind =
            |kind: BufferKind, index: &u32| BufferRef { kind: kind.into(), index: *index, byte_offset: None };
        let read = reads.iter().map(|index| of_kind(BufferKind::StateIn, index));
        let args = read.chain(writes.iter().map(|index| of_kind(BufferKind::StateOut, index))).collect();
        LaunchEntry { launch: Launch { args, ..Launch::default() }, kernel: 0, updates }
    }

    #[test]
    fn nothing_is_read_once_its_place_was_written() {
        let update = || launch(&[0], &[0], Some(0));
        assert!(holds(&[]));
        assert!(holds(&[update()]));
        assert!(holds(&[launch(&[0], &[], None), update(), launch(&[], &[], None)]));
        assert!(holds(&[update(), launch(&[1], &[1], Some(1))]));
        assert!(!holds(&[launch(&[0], &[0], None)]));
        assert!(!holds(&[update(), launch(&[0], &[], None)]));
        assert!(!holds(&[launch(&[], &[0], None), update()]));
        assert!(!holds(&[launch(&[0, 1], &[0, 1], Some(0))]));
    }
}
