use super::*;
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::model;
use ssmc_ir::edit::EditError;
use ssmc_ir::ops::{Op, Unary, UnaryFn};

const TEXT: &str = "func @f(%x: f32[batch]) {
    %1 = exp %x : f32[batch]
    %2 = exp %x : f32[batch]
    %3 = tanh %x : f32[batch]
    %4 = add %1, %2 : f32[batch]
    return %4 \"y\"
}";

fn n_nodes(manager: Manager<'_>) -> usize {
    let (mut manager, mut model) = (manager, model(TEXT));
    manager.run(&mut model, &[CANONICAL, RAISED]).unwrap();
    model.graph.nodes().len()
}

#[test]
fn passes_can_be_left_out() {
    assert_eq!(n_nodes(Manager::new()), 2);
    assert_eq!(n_nodes(Manager::new().disable("cse")), 3);
    assert_eq!(n_nodes(Manager::new().count(Counter::new(Some(1)))), 3, "only dce has run");
    assert_eq!(n_nodes(Manager::new().count(Counter::new(Some(0)))), 4);
    let error = Manager::new().disable("csé").run(&mut model(TEXT), &[CANONICAL]).unwrap_err().to_string();
    assert!(error.contains("cse") && error.contains("\"csé\""), "{error}");
}

#[test]
fn every_stage_is_shown_and_every_run_recorded() {
    let mut stages = Vec::new();
    let report = Manager::new()
        .on_stage(|stage, model| stages.push((stage, model.graph.nodes().len())))
        .stop_after(Stage::Canonical)
        .run(&mut model(TEXT), &[CANONICAL, RAISED])
        .unwrap();
    assert_eq!(stages, [(Stage::Imported, 4), (Stage::Canonical, 2)]);
    assert_eq!(report.runs.len(), CANONICAL.passes.len());
    assert_eq!((report.runs[0].pass, report.runs[0].nodes_before, report.runs[0].nodes_after), ("dce", 4, 3));
    assert_eq!(report.runs[0].changed, Some(Changed::Yes));
}

/// Makes a graph that its stage does not allow.
struct Fuse;

impl Pass for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = ssmc_ir::edit::rewrite(&model.graph, |r, _, node| {
            r.copy_as(node, Unary { f: UnaryFn::Silu }.into(), Vec::new())?;
            Ok::<_, EditError>(ssmc_ir::edit::Action::Done)
        })?;
        assert!(graph.nodes().all(|(_, n)| matches!(n.op, Op::Unary(_))));
        Ok(Changed::replace(model, graph))
    }
}

#[test]
fn an_invalid_graph_is_blamed_on_its_pass() {
    let phase = Phase { stage: Stage::Raised, passes: &[&Fuse] };
    let text = "func @f(%x: f32[batch]) { %1 = exp %x : f32[batch] return %1 \"y\" }";
    let error = Manager::new().verify_each(true).run(&mut model(text), &[phase]).unwrap_err();
    assert!(matches!(&error, ManagerError::Invalid { pass: "fuse", faults } if faults.len() == 1), "{error}");
}
