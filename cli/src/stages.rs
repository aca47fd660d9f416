//! The text of the stage `partitioned`.

use ssmc_ir::{NodeId, Place, Plan};
use std::fmt::Write;

/// The plan as text for people: the graph, then kernel by kernel what it computes, reads into and writes.
pub fn plan_text(plan: &Plan) -> String {
    let mut text = plan.graph.to_string();
    // Writing to a string cannot fail.
    let _ = write_groups(plan, &mut text);
    text
}

fn write_groups(plan: &Plan, text: &mut String) -> std::fmt::Result {
    let node = |id: &NodeId| {
        let node = plan.graph.node(*id);
        let results: Vec<String> = node.results.iter().map(ToString::to_string).collect();
        format!("{} ({})", node.op.name(), results.join(" "))
    };
    for (i, group) in plan.groups.iter().enumerate() {
        writeln!(text, "\n; kernel {i}: {}", node(&group.root))?;
        let inlined = group.members.iter().filter(|m| **m != group.root && !group.epilogue.contains(m));
        for member in inlined {
            writeln!(text, ";   inlined {}", node(member))?;
        }
        for member in &group.epilogue {
            writeln!(text, ";   then {}", node(member))?;
        }
        for value in &group.outputs {
            match plan.places.get(value) {
                Some(Place::Slot(slot)) => writeln!(text, ";   writes {value} to slot {slot}")?,
                Some(Place::Output(i)) => {
                    writeln!(text, ";   writes {value} to output {:?}", plan.graph.outputs()[*i].name)?;
                }
                Some(Place::Input(_) | Place::Weight) | None => writeln!(text, ";   writes {value}")?,
            }
        }
    }
    for (slot, size) in plan.slots.iter().enumerate() {
        writeln!(text, "; slot {slot}: {size} bytes")?;
    }
    Ok(())
}
