//! Random graphs: what must hold for every graph.

use crate::edit::{Action, EditError, dce, rewrite, substitute};
use crate::interp::{Interpreter, Precision};
use crate::ops::{BinaryFn, Cast, Concat, CumSum, Pad, Reduce, ReduceFn, Reverse, Scan, UnaryFn};
use crate::stage::Stage;
use crate::tensor::{Data, Tensor};
use crate::testing::noisy;
use crate::text::parse;
use crate::verify::verify;
use crate::{DType, Dim, Graph, GraphBuilder, Loc, Symbol, TensorType, ValueId, Weights};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One random choice: what to build, and out of which of the values so far.
type Choice = (u8, u16, u16);

/// Adds a node if the chosen one fits the chosen operands. All values are f32, most of rank 3.
fn add(b: &mut GraphBuilder, pool: &mut Vec<ValueId>, (kind, i, j): Choice) {
    let pick = |i: u16| pool[usize::from(i) % pool.len()];
    let (x, y) = (pick(i), pick(j));
    let rank = b.ty(x).rank();
    let axis = usize::from(j) % rank.max(1);
    let choose = |n: usize| usize::from(j) % n;
    match kind % 5 {
        0 => b.set_loc(Loc::Unknown),
        1 => b.set_loc(Loc::Module(format!("layers.{}", i % 3))),
        2 => b.set_loc(Loc::OnnxNode { name: format!("/n{i}"), op: "Op".into(), output: String::new() }),
        3 => b.set_loc(Loc::Text { line: u32::from(i), column: u32::from(j) }),
        _ => {
            let from = vec![b.intern_loc(Loc::Unknown), b.intern_loc(Loc::Module("m".into()))];
            b.set_loc(Loc::Derived { by: format!("rule-{}", j % 4), from })
        }
    };
    let built = match kind % 12 {
        0 => b.unary(UnaryFn::ALL[choose(UnaryFn::ALL.len())], x),
        1 | 2 => b.binary(BinaryFn::ALL[choose(BinaryFn::ALL.len())], x, y),
        3 => b.op(Reduce { axes: vec![axis], f: ReduceFn::ALL[choose(5)] }, &[x]),
        4 => b.op(CumSum { axis, exclusive: i % 2 == 0, reverse: i % 3 == 0 }, &[x]),
        5 => b.op(Reverse { axis }, &[x]),
        6 => b.op(Concat { axis }, &[x, y]),
        7 => b
            .scalar(DType::F32, f64::from(j) / 7.0)
            .and_then(|v| b.op(Pad { axis, high: Dim::from(1), low: Dim::symbol("n") }, &[x, v])),
        8 => b.transpose(x, &(0..rank).rev().collect::<Vec<_>>()),
        9 => b.op(Cast { to: DType::F16 }, &[x]).and_then(|h| b.cast(h, DType::F32)),
        10 => b
            .node(Scan { reverse: i % 2 == 0 }, &[Some(x), Some(y)], Vec::new())
            .map(|r| r[usize::from(i) % 2]),
        _ => b.contract(["abc,abc->ab", "abc,adc->abd", "abc,abc->"][choose(3)], &[x, y]),
    };
    // Choices that do not fit their operands are left out.
    if let Ok(value) = built
        && b.ty(value).dtype == DType::F32
    {
        pool.push(value);
    }
}

fn build(choices: &[Choice]) -> Graph {
    let mut b = GraphBuilder::new("random");
    let ty = |dims: [Dim; 3]| TensorType::new(DType::F32, dims);
    let (n, two) = (Dim::symbol("n"), Dim::from(2));
    let x = b.input("x", ty([n.clone(), two.clone(), n.clone() + 1]));
    let y = b.input("layers.0/state", ty([n.clone(), two, n + 1]));
    let mut pool = vec![x, y];
    for choice in choices {
        add(&mut b, &mut pool, *choice);
    }
    for (i, value) in pool.iter().rev().take(3).enumerate() {
        b.output(format!("out {i}"), *value);
    }
    b.finish()
}

fn run(graph: &Graph, precision: Precision, n: usize) -> BTreeMap<String, Tensor> {
    let shape = [n, 2, n + 1];
    let inputs =
        BTreeMap::from([("x".to_owned(), noisy(1, &shape)), ("layers.0/state".to_owned(), noisy(2, &shape))]);
    let weights = Weights::new();
    Interpreter::new(graph, &weights)
        .precision(precision)
        .run(&inputs)
        .unwrap_or_else(|e| panic!("{e} in\n{graph}"))
}

/// Equal bits; NaN equals NaN.
fn same(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((name, x), (other, y))| {
            let equal = match (x.data(), y.data()) {
                (Data::Float(x), Data::Float(y)) => {
                    x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()))
                }
                (x, y) => x == y,
            };
            name == other && x.shape() == y.shape() && equal
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn laws_of_graphs(choices in prop::collection::vec(any::<Choice>(), 0..25), n in 0usize..4) {
        let graph = build(&choices);
        prop_assert_eq!(verify(&graph, Stage::Rewritten), vec![]);

        let text = graph.to_string();
        let parsed = parse(&text).map_err(|faults| TestCaseError::fail(format!("{faults:?} in\n{text}")))?;
        prop_assert_eq!(&parsed, &graph, "{}", text);

        let copy = rewrite::<EditError>(&graph, |_, _, _| Ok(Action::Copy)).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&copy, &graph);

        let truth = run(&graph, Precision::Truth, n);
        prop_assert!(same(&truth, &run(&parsed, Precision::Truth, n)), "{}", text);
        prop_assert!(same(&run(&graph, Precision::Typed, n), &run(&parsed, Precision::Typed, n)), "{}", text);

        let smaller = dce(&graph).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert!(smaller.nodes().len() <= graph.nodes().len());
        prop_assert!(same(&truth, &run(&smaller, Precision::Truth, n)), "{}", text);

        let with = BTreeMap::from([(Symbol::new("n"), Dim::from(n))]);
        let fixed = substitute(&graph, &with).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(verify(&fixed, Stage::Rewritten), vec![]);
        prop_assert!(same(&truth, &run(&fixed, Precision::Truth, n)), "{}", text);
    }
}

#[test]
fn random_graphs_are_not_trivial() {
    let choices: Vec<Choice> = (0..60u16).map(|i| (i as u8, i.wrapping_mul(7), i.wrapping_mul(13))).collect();
    let graph = build(&choices);
    let kinds: std::collections::BTreeSet<_> = graph.nodes().map(|(_, node)| node.op.name()).collect();
    assert!(graph.nodes().len() > 30 && kinds.len() > 12, "{kinds:?}");
}
