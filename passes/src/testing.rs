//! Helpers of tests: graphs from text, numbers that are the same in every run, and the interpreter before and after.

use crate::manager::{Manager, Phase, Report};
use ssmc_ir::{Bindings, Graph, Interpreter, Model, Symbol, Tensor, TensorType, Weight};
use std::collections::BTreeMap;

/// Numbers between -1 and 1.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = 0x2545_f491_4f6c_dd1d ^ (seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn random(seed: u64, ty: &TensorType, bindings: &Bindings) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().map(|d| d.eval(bindings).unwrap() as usize).collect();
    let data = noise(seed, shape.iter().product());
    if ty.dtype.is_float() {
        Tensor::floats(ty.dtype, shape, data).unwrap().rounded()
    } else {
        Tensor::ints(ty.dtype, shape, data.iter().map(|x| (x.abs() * 3.0) as i64).collect()).unwrap()
    }
}

/// The model of a text, with random weights.
pub(crate) fn model(text: &str) -> Model {
    let graph = ssmc_ir::parse(text).unwrap_or_else(|e| panic!("{e:?}"));
    let mut model = Model { graph, ..Model::default() };
    for (id, node) in model.graph.nodes() {
        if let ssmc_ir::ops::Op::WeightRef(w) = &node.op {
            let ty = TensorType::new(w.dtype, w.shape.clone());
            let seed = 100 + ssmc_ir::Entity::idx(id) as u64;
            let bytes = random(seed, &ty, &Bindings::new()).to_bytes();
            model.weights.insert(w.name.clone(), Weight { ty, bytes: bytes.into() });
        }
    }
    model
}

fn outputs(model: &Model, bindings: &Bindings) -> BTreeMap<String, Tensor> {
    let graph = &model.graph;
    let inputs = graph.inputs().iter().enumerate();
    let inputs = inputs.map(|(i, p)| (p.name.clone(), random(i as u64, graph.ty(p.value), bindings)));
    let inputs = inputs.collect();
    let mut interpreter = Interpreter::new(graph, &model.weights);
    for (symbol, value) in bindings {
        interpreter = interpreter.bind(symbol.clone(), *value);
    }
    interpreter.run(&inputs).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

/// Runs the phases and compares the interpreter before and after for several extents of `batch` and `seq_len`.
pub(crate) fn optimized(text: &str, phases: &[Phase]) -> (Model, Report) {
    let before = model(text);
    let mut after = before.clone();
    let report = Manager::new().verify_each(true).run(&mut after, phases).unwrap_or_else(|e| panic!("{e}"));
    for (batch, len) in [(1, 1), (2, 0), (2, 3), (3, 8)] {
        let bindings = Bindings::from([(Symbol::new("batch"), batch), (Symbol::new("seq_len"), len)]);
        let (x, y) = (outputs(&before, &bindings), outputs(&after, &bindings));
        assert_eq!(x.keys().collect::<Vec<_>>(), y.keys().collect::<Vec<_>>());
        for (name, x) in &x {
            let y = &y[name];
            assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()), "{name}\n{}", after.graph);
            for (p, q) in x.to_f64().iter().zip(y.to_f64()) {
                let error = (p - q).abs() / p.abs().max(1.0);
                assert!(error < 1e-6, "{name}: {p} before, {q} after\n{}", after.graph);
            }
        }
    }
    (after, report)
}

/// The spellings of the nodes other than sources, in order; contractions with their labels.
pub(crate) fn ops(graph: &Graph) -> Vec<String> {
    use ssmc_ir::ops::Op;
    graph
        .nodes()
        .filter_map(|(_, n)| match &n.op {
            Op::Constant(_) | Op::WeightRef(_) => None,
            Op::Contract(c) => Some(c.spec.to_string()),
            op => Some(op.name().to_owned()),
        })
        .collect()
}
