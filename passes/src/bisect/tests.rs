use super::*;
use crate::egraph::Expr;
use crate::pass::{Changed, Pass, PassCtx, PassError};
use crate::pipeline::{CANONICAL, RAISED};
use crate::rules::{Direction, Equation, Exactness, Rule};
use crate::testing::model;
use egg::Id;
use ssmc_ir::edit::{self, Action, EditError};
use ssmc_ir::ops::{Op, Unary, UnaryFn};
use ssmc_ir::{InterpError, Interpreter, Stage, Tensor};
use std::collections::BTreeMap;

const TEXT: &str = "func @f(%x: f32[4], %z: f32[4]) {
    %1 = sigmoid %z : f32[4]
    %2 = mul %z, %1 : f32[4]
    %3 = exp %x : f32[4]
    %4 = mul %3, %2 : f32[4]
    return %4 \"y\"
}";

/// A rule that is not true.
static WRONG: Rule = Rule {
    name: "exp-is-relu",
    family: "wrong",
    equation: "exp(x) = relu(x)",
    reason: "none",
    source: "none",
    exactness: Exactness::Bitwise,
    direction: Direction::Forward,
    find: |egraph: &egraph::Graph, id: Id| {
        let exp =
            egraph[id].nodes.iter().filter(|t| matches!(t.op(), Some(Op::Unary(u)) if u.f == UnaryFn::Exp));
        let equal = |term: &egraph::Term| {
            let x = Expr::class(egraph, term.children[0]);
            let right = Expr::op(Unary { f: UnaryFn::Relu }, vec![x])?;
            Some(Equation::between(Expr::term(egraph, term), right))
        };
        exp.filter_map(equal).collect()
    },
};

/// A pass that is wrong: `sigmoid` becomes `tanh`.
struct LosesGate;

impl Pass for LosesGate {
    fn name(&self) -> &'static str {
        "loses-gate"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = edit::rewrite(&model.graph, |r, _, node| {
            if !matches!(&node.op, Op::Unary(u) if u.f == UnaryFn::Sigmoid) {
                return Ok(Action::Copy);
            }
            r.copy_as(node, Unary { f: UnaryFn::Tanh }.into(), Vec::new())?;
            Ok::<_, EditError>(Action::Done)
        })?;
        Ok(Changed::replace(model, graph))
    }
}

fn differs(graph: &Graph, weights: &Weights) -> Result<bool, InterpError> {
    let tensor = |data: [f64; 4]| Tensor::floats(ssmc_ir::DType::F32, [4], data.to_vec()).unwrap();
    let inputs = BTreeMap::from([
        ("x".to_owned(), tensor([-1.0, 0.0, 0.5, 2.0])),
        ("z".to_owned(), tensor([1.0, -2.0, 0.3, 0.7])),
    ]);
    let truth = Interpreter::new(&model(TEXT).graph, &Weights::new()).run(&inputs)?["y"].to_f64();
    let found = Interpreter::new(graph, weights).run(&inputs)?["y"].to_f64();
    Ok(truth.iter().zip(found).any(|(x, y)| (x - y).abs() > 1e-6))
}

#[test]
fn right_rules_are_not_blamed() {
    let options = RewriteOptions::default();
    assert_eq!(blame(&model(TEXT), &[CANONICAL, RAISED], &options, differs).unwrap(), None);
}

#[test]
fn a_wrong_rule_is_found_among_right_ones() {
    let options = RewriteOptions { more_rules: vec![&WRONG], ..RewriteOptions::default() };
    let found = blame(&model(TEXT), &[CANONICAL, RAISED], &options, differs).unwrap().unwrap();
    assert_eq!(found.step, Step::Rule("exp-is-relu"));
    let at = |limit| {
        let counter = Counter::new(Some(limit));
        let options = RewriteOptions { counter: counter.clone(), ..options.clone() };
        let mut model = model(TEXT);
        Manager::new().count(counter.clone()).run(&mut model, &[CANONICAL, RAISED]).unwrap();
        let graph = egraph::rewrite(&model.graph, &options).unwrap().graph;
        assert_eq!((counter.taken(), counter.is_exhausted()), (limit, true));
        differs(&graph, &model.weights).unwrap()
    };
    assert!(at(found.number) && !at(found.number - 1));
}

#[test]
fn a_wrong_pass_is_found_among_right_ones() {
    let wrong = Phase { stage: Stage::Raised, passes: &[&crate::dce::Dce, &LosesGate, &crate::cse::Cse] };
    let options = RewriteOptions::default();
    let found = blame(&model(TEXT), &[CANONICAL, wrong], &options, differs).unwrap().unwrap();
    let number = CANONICAL.passes.len() + 2;
    assert_eq!(found, Blame { step: Step::Pass("loses-gate"), number });
}
