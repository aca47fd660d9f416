//! Read-outs take the axes of their scan.
//!
//! A tree over strided views leaves the axis of steps divided, and with it the product that reads the states. Where all
//! factors and the result have the parts side by side, the product is over the axis as the scan has it.

use super::chunked::groups;
use crate::pass::{Changed, Pass, PassCtx, PassError};
use crate::view;
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::{Contract, Op, Spec};
use ssmc_ir::{Dim, Graph, Model, Node, ValueId};

/// Joins axes of products with states that the scan does not divide. Regions are left alone.
pub struct WholeSteps;

impl Pass for WholeSteps {
    fn name(&self) -> &'static str {
        "whole-steps"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = rewrite(&model.graph, |r, _, node| {
            let old = r.old();
            let Op::Contract(op) = &node.op else { return Ok(Action::Copy) };
            let Some(run) = divided(old, node, &op.spec) else { return Ok(Action::Copy) };
            let mut operands = Vec::new();
            for (labels, x) in op.spec.inputs.iter().zip(r.operands(node)?.into_iter().flatten()) {
                let b = r.builder();
                let dims = joined_dims(labels, &run, &b.shape(x).clone());
                operands.push(view::reshape(b, x, &dims)?);
            }
            let join = |labels: &[u8]| -> Vec<u8> {
                labels.iter().copied().filter(|l| *l == run[0] || !run.contains(l)).collect()
            };
            let inputs = op.spec.inputs.iter().map(|labels| join(labels)).collect();
            let spec = Spec { inputs, output: join(&op.spec.output) }.renamed();
            let b = r.builder();
            let y = b.op(Contract { spec }, &operands)?;
            let y = view::reshape(b, y, &old.ty(node.results[0]).shape)?;
            r.replace(node.results[0], y)?;
            Ok::<_, EditError>(Action::Done)
        })?;
        Ok(Changed::replace(model, graph))
    }
}

/// Labels that are parts of one axis of a scan's result and stand side by side wherever they occur.
fn divided(graph: &Graph, node: &Node, spec: &Spec) -> Option<Vec<u8>> {
    for (labels, x) in spec.inputs.iter().zip(node.operands.iter().flatten()) {
        let Some(by) = graph.def_node(*x).filter(|n| matches!(n.op, Op::Reshape(_))) else { continue };
        let whole = by.operands[0]?;
        if !is_of_scan(graph, whole) {
            continue;
        }
        for (from, to) in groups(&graph.ty(whole).shape, &graph.ty(*x).shape)? {
            let run: Vec<u8> = to.iter().map(|axis| labels[*axis]).collect();
            let is_together = |labels: &[u8]| {
                !labels.iter().any(|l| run.contains(l)) || labels.windows(run.len()).any(|w| *w == run[..])
            };
            let is_once = |labels: &[u8]| run.iter().all(|l| labels.iter().filter(|m| *m == l).count() <= 1);
            let mut all = spec.inputs.iter().chain([&spec.output]);
            if from.len() == 1 && run.len() > 1 && all.all(|l| is_together(l) && is_once(l)) {
                return Some(run);
            }
        }
    }
    None
}

fn joined_dims(labels: &[u8], run: &[u8], dims: &[Dim]) -> Vec<Dim> {
    let mut joined: Vec<Dim> = Vec::new();
    for (label, dim) in labels.iter().zip(dims) {
        match joined.last_mut() {
            Some(last) if run[1..].contains(label) => *last = last.clone() * dim,
            _ => joined.push(dim.clone()),
        }
    }
    joined
}

/// Whether a value is a view of what a scan computed.
fn is_of_scan(graph: &Graph, mut value: ValueId) -> bool {
    while let Some(node) = graph.def_node(value) {
        match (&node.op, node.operands.first()) {
            (Op::Scan(_) | Op::LinearAttention(_), _) => return true,
            (
                Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Reverse(_) | Op::Cast(_),
                Some(Some(x)),
            ) => value = *x,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use crate::manager::Phase;
    use crate::testing::{ops, optimized};
    use ssmc_ir::Stage;

    const PHASE: Phase = Phase { stage: Stage::Raised, passes: &[&super::WholeSteps, &crate::dce::Dce] };

    fn read_out(c: &str, spec: &str) -> Vec<String> {
        let text = format!(
            "func @f(%a: f32[batch, 8, 3, 5], %b: f32[batch, 8, 3, 5], %c: f32[{c}]) {{
               %h, %last = ssm.scan %a, %b : f32[batch, 8, 3, 5], f32[batch, 3, 5]
               %1 = reshape %h {{shape=[batch, 2, 4, 3, 5]}} : f32[batch, 2, 4, 3, 5]
               %2 = contract[{spec}] %1, %c : f32[batch, 2, 4, 3]
               return %2 \"y\"
             }}"
        );
        ops(&optimized(&text, &[PHASE]).0.graph)
    }

    #[test]
    fn steps_that_were_divided_are_joined() {
        assert!(read_out("batch, 2, 4, 5", "abcde,abce->abcd").contains(&"abcd,abd->abc".to_string()));
    }

    #[test]
    fn parts_that_stand_apart_stay() {
        assert!(read_out("batch, 4, 2, 5", "abcde,acbe->abcd").contains(&"abcde,acbe->abcd".to_string()));
        assert!(read_out("batch, 2, 5", "abcde,abe->abcd").contains(&"abcde,abe->abcd".to_string()));
    }
}
