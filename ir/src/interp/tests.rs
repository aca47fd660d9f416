use super::*;
use crate::ops::UnaryFn;
use crate::tensor::Data;
use crate::testing::{assert_close, f32s, graph, i32s, i64s, named, noise, noisy, run};
use crate::types::Shape;
use crate::weights::Weight;
use crate::{DType, GraphBuilder};

const AFFINE: &str = "func @f(%x: f32[batch, 2]) {
    %w = weight {name=\"w\", shape=[3, 2]} : f32[3, 2]
    %y = contract[bd,ed->be] %x, %w : f32[batch, 3]
    %n = dim {value=batch} : i64[]
    return %y \"y\", %n \"n\"
}";

fn weights(dtype: DType, shape: [i64; 2], data: &[f32]) -> Weights {
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut weights = Weights::new();
    weights.insert("w", Weight { ty: TensorType::new(dtype, Shape::from(shape)), bytes: bytes.into() });
    weights
}

#[test]
fn weights_and_symbols() {
    let graph = graph(AFFINE);
    let weights = weights(DType::F32, [3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let x = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let out = Interpreter::new(&graph, &weights).run(&named(&[("x", x)])).unwrap();
    assert_eq!(out["y"], f32s(&[2, 3], &[1.0, 2.0, 3.0, 3.0, 4.0, 7.0]));
    assert_eq!(out["n"], i64s(&[], &[2]));
}

#[test]
fn faults_of_weights() {
    let graph = graph(AFFINE);
    let inputs = named(&[("x", noisy(1, &[1, 2]))]);
    let fault = |weights: &Weights| match Interpreter::new(&graph, weights).run(&inputs) {
        Err(InterpError::Node { source, .. }) => *source,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&Weights::new()), EvalError::WeightMissing { name: "w".into() });
    let other = weights(DType::F32, [2, 3], &[0.0; 6]);
    assert!(matches!(fault(&other), EvalError::WeightType { .. }));
    let short = weights(DType::F32, [3, 2], &[0.0; 5]);
    assert!(matches!(fault(&short), EvalError::Tensor(_)));
}

#[test]
fn faults_of_inputs() {
    let graph = graph("func @f(%x: f32[n, 2*m + 1], %y: f32[n]) { return %x }");
    let check = |inputs: &[(&str, Tensor)]| run(&graph, Precision::Truth, inputs);
    let y = || ("y", noisy(1, &[3]));
    assert!(check(&[("x", noisy(1, &[3, 5])), y()]).is_ok());
    let missing = check(&[y()]);
    assert_eq!(missing, Err(InterpError::MissingInput { name: "x".into() }));
    let unknown = check(&[("x", noisy(1, &[3, 5])), y(), ("z", noisy(1, &[1]))]);
    assert_eq!(unknown, Err(InterpError::UnknownInput { name: "z".into() }));
    let conflict = check(&[("x", noisy(1, &[4, 5])), y()]);
    assert!(matches!(conflict, Err(InterpError::InputExtent { wanted: 4, found: 3, .. })), "{conflict:?}");
    let even = check(&[("x", noisy(1, &[3, 4])), y()]);
    assert!(matches!(even, Err(InterpError::InputDim { axis: 1, .. })), "{even:?}");
    let rank = check(&[("x", noisy(1, &[3])), y()]);
    assert!(matches!(rank, Err(InterpError::InputShape { .. })), "{rank:?}");
    let dtype = check(&[("x", i64s(&[3, 5], &[0; 15])), y()]);
    assert!(matches!(dtype, Err(InterpError::InputType { found: DType::I64, .. })), "{dtype:?}");
}

#[test]
fn symbols_that_no_input_determines_can_be_bound() {
    let graph = graph("func @f() { %y = iota {shape=[n]} : i64[n] return %y \"y\" }");
    let none = Weights::new();
    let unbound = Interpreter::new(&graph, &none).run(&BTreeMap::new()).unwrap_err();
    assert!(unbound.to_string().contains("symbol n is not bound"), "{unbound}");
    let out = Interpreter::new(&graph, &none).bind(Symbol::new("n"), 3).run(&BTreeMap::new()).unwrap();
    assert_eq!(out["y"], i64s(&[3], &[0, 1, 2]));
}

#[test]
fn truth_does_not_round_and_typed_does() {
    let graph = graph(
        "func @f(%x: f32[1]) {
            %h = cast %x {to=f16} : f16[1]
            %y = add %h, %h : f16[1]
            return %y \"y\"
        }",
    );
    let out = |precision, x: f64| {
        let out = run(&graph, precision, &[("x", f32s(&[1], &[x]))]).unwrap();
        out["y"].as_floats().unwrap()[0]
    };
    assert_eq!(out(Precision::Truth, 0.1), 0.2);
    assert_eq!(out(Precision::Typed, 0.1), f64::from(half::f16::from_f32(0.1)) * 2.0);
    assert_eq!(out(Precision::Truth, 50000.0), 100_000.0);
    assert_eq!(out(Precision::Typed, 50000.0), f64::INFINITY);
}

#[test]
fn recording_sees_every_value() {
    let mut b = GraphBuilder::new("f");
    let x = b.input("x", TensorType::new(DType::F32, [2]));
    let y = b.unary(UnaryFn::Neg, x).unwrap();
    let unused = b.unary(UnaryFn::Exp, y).unwrap();
    b.output("y", y);
    let (graph, weights) = (b.finish(), Weights::new());
    let inputs = named(&[("x", f32s(&[2], &[0.0, 1.0]))]);
    let Recording { outputs, values } = Interpreter::new(&graph, &weights).run_recorded(&inputs).unwrap();
    assert_eq!(values.keys().copied().collect::<Vec<_>>(), [x, y, unused]);
    assert_eq!(values[&y], outputs["y"]);
}

#[test]
fn one_value_may_be_two_outputs_and_an_input_an_output() {
    let graph = graph("func @f(%x: f32[1]) { %y = neg %x : f32[1] return %y \"a\", %y \"b\", %x \"c\" }");
    let out = run(&graph, Precision::Truth, &[("x", f32s(&[1], &[2.0]))]).unwrap();
    assert_eq!(out["a"], out["b"]);
    assert_eq!(out["c"], f32s(&[1], &[2.0]));
}

#[test]
fn an_invalid_graph_is_refused() {
    let mut graph = graph("func @f(%x: f32[1]) { %y = neg %x : f32[1] return %y }");
    let id = graph.nodes.keys().next().unwrap();
    graph.nodes[id].operands[0] = Some(ValueId::new(7));
    let result = run(&graph, Precision::Truth, &[("x", noisy(1, &[1]))]);
    assert!(matches!(result, Err(InterpError::Invalid(_))), "{result:?}");
}

const SCAN: &str = "func @f(%a: f32[b, l, 2], %x: f32[b, l, 2], %h0: f32[b, 2]) {
    %h, %last = ssm.scan %a, %x, %h0 : f32[b, l, 2], f32[b, 2]
    return %h \"h\", %last \"last\"
}";

/// Steps `range` of a tensor [1, L, C].
fn steps(x: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let c = x.shape()[2];
    f32s(&[1, range.len(), c], &x.as_floats().unwrap()[range.start * c..range.end * c])
}

#[test]
fn a_scan_step_by_step_is_the_whole_scan() {
    let graph = graph(SCAN);
    let (a, x, h0) = (noisy(1, &[1, 9, 2]), noisy(2, &[1, 9, 2]), noisy(3, &[1, 2]));
    let whole =
        run(&graph, Precision::Truth, &[("a", a.clone()), ("x", x.clone()), ("h0", h0.clone())]).unwrap();
    let mut state = h0;
    for t in 0..9 {
        let inputs = [("a", steps(&a, t..t + 1)), ("x", steps(&x, t..t + 1)), ("h0", state)];
        let mut out = run(&graph, Precision::Truth, &inputs).unwrap();
        assert_eq!(out["h"], steps(&whole["h"], t..t + 1));
        state = out.remove("last").unwrap();
    }
    assert_eq!(state, whole["last"]);
}

#[test]
fn a_convolution_step_by_step_is_the_whole_one() {
    let graph = graph(
        "func @f(%x: f32[1, l, 2], %w: f32[2, 4], %s: f32[1, 3, 2]) {
            %y, %t = ssm.causal_conv1d %x, %w, _, %s {activation=silu} : f32[1, l, 2], f32[1, 3, 2]
            return %y \"y\", %t \"t\"
        }",
    );
    let (x, w) = (noisy(1, &[1, 7, 2]), noisy(2, &[2, 4]));
    let mut state = noisy(3, &[1, 3, 2]);
    let inputs = [("x", x.clone()), ("w", w.clone()), ("s", state.clone())];
    let whole = run(&graph, Precision::Truth, &inputs).unwrap();
    for t in 0..7 {
        let inputs = [("x", steps(&x, t..t + 1)), ("w", w.clone()), ("s", state)];
        let mut out = run(&graph, Precision::Truth, &inputs).unwrap();
        assert_eq!(out["y"], steps(&whole["y"], t..t + 1));
        state = out.remove("t").unwrap();
    }
    assert_eq!(state, whole["t"]);
}

#[test]
fn a_reverse_scan_is_a_scan_between_reversals() {
    let graph = graph(
        "func @f(%a: f32[1, l, 2], %x: f32[1, l, 2]) {
            %r, %1 = ssm.scan %a, %x {reverse=true} : f32[1, l, 2], f32[1, 2]
            %ar = reverse %a {axis=1} : f32[1, l, 2]
            %xr = reverse %x {axis=1} : f32[1, l, 2]
            %f, %2 = ssm.scan %ar, %xr : f32[1, l, 2], f32[1, 2]
            %fr = reverse %f {axis=1} : f32[1, l, 2]
            %same = reverse %xr {axis=1} : f32[1, l, 2]
            return %r \"r\", %fr \"fr\", %1 \"r_last\", %2 \"f_last\", %same \"same\"
        }",
    );
    for len in [0, 1, 6] {
        let (a, x) = (noisy(1, &[1, len, 2]), noisy(2, &[1, len, 2]));
        let out = run(&graph, Precision::Truth, &[("a", a), ("x", x.clone())]).unwrap();
        assert_eq!(out["r"], out["fr"]);
        assert_eq!(out["r_last"], out["f_last"]);
        assert_eq!(out["same"], x);
    }
}

/// A mixer core with a convolution before it, on packed sequences.
const PACKED: &str = "func @f(%x: f32[1, l, 2], %dt: f32[1, l, 2], %b: f32[1, l, 3], %seq: i32[1, l]) {
    %w = constant {data=[0.5, -1.0, 2.0, 1.0, 0.25, -0.5], shape=[2, 3]} : f32[2, 3]
    %a = constant {data=[-1.0, -2.0, -3.0, -0.5, -0.25, -1.5], shape=[1, 2, 3]} : f32[1, 2, 3]
    %u, %t = ssm.causal_conv1d %x, %w, _, _, %seq : f32[1, l, 2], f32[1, 2, 2]
    %u4 = reshape %u {shape=[1, l, 1, 2]} : f32[1, l, 1, 2]
    %dt4 = reshape %dt {shape=[1, l, 1, 2]} : f32[1, l, 1, 2]
    %b4 = reshape %b {shape=[1, l, 1, 3]} : f32[1, l, 1, 3]
    %y, %last = ssm.selective_scan %u4, %dt4, %a, %b4, %b4, _, _, _, _, %seq {dt_softplus=true, reverse=REVERSE}
        : f32[1, l, 1, 2], f32[1, 1, 2, 3]
    return %y \"y\", %last \"last\"
}";

#[test]
fn packed_sequences_are_separate_sequences() {
    for reverse in ["false", "true"] {
        let graph = graph(&PACKED.replace("REVERSE", reverse));
        let lens = [3usize, 1, 5];
        let total: usize = lens.iter().sum();
        let (x, dt, b) = (noisy(1, &[1, total, 2]), noisy(2, &[1, total, 2]), noisy(3, &[1, total, 3]));
        let part = |range: std::ops::Range<usize>, seq: &[i64]| {
            let seq = i32s(&[1, range.len()], seq);
            let (x, dt, b) = (steps(&x, range.clone()), steps(&dt, range.clone()), steps(&b, range));
            run(&graph, Precision::Truth, &[("x", x), ("dt", dt), ("b", b), ("seq", seq)]).unwrap()
        };
        let seq: Vec<i64> = lens.iter().enumerate().flat_map(|(i, n)| vec![i as i64 * 7; *n]).collect();
        let packed = part(0..total, &seq);
        let (mut separate, mut start) = (Vec::new(), 0);
        for n in lens {
            let out = part(start..start + n, &vec![0; n]);
            separate.extend_from_slice(out["y"].as_floats().unwrap());
            start += n;
        }
        assert_close(&packed["y"], &f32s(&[1, total, 1, 2], &separate), 0.0, reverse);
        let joined = part(0..total, &vec![0; total]);
        assert_ne!(
            joined["y"], packed["y"],
            "the sequences do not influence each other in the packed run only"
        );
    }
}

#[test]
fn fused_and_primitive_mixers_agree() {
    let graph = graph(
        "func @f(%x: f32[1, l, 1, 2], %dt: f32[1, l, 1, 2], %b: f32[1, l, 1, 3], %z: f32[1, l, 1, 2]) {
            %a = constant {data=[-1.0, -2.0, -3.0, -0.5, -0.25, -1.5], shape=[1, 2, 3]} : f32[1, 2, 3]
            %d = constant {data=[0.5, 2.0], shape=[1, 2]} : f32[1, 2]
            %y, %last = ssm.selective_scan %x, %dt, %a, %b, %b, %d, %z {dt_softplus=true}
                : f32[1, l, 1, 2], f32[1, 1, 2, 3]
            %s = softplus %dt : f32[1, l, 1, 2]
            %e = contract[blge,gen->blgen] %s, %a : f32[1, l, 1, 2, 3]
            %abar = exp %e : f32[1, l, 1, 2, 3]
            %bx = contract[blge,blgn,blge->blgen] %s, %b, %x : f32[1, l, 1, 2, 3]
            %h, %last2 = ssm.scan %abar, %bx : f32[1, l, 1, 2, 3], f32[1, 1, 2, 3]
            %h1, %last3 = ssm.discretized_scan %x, %s, %a, %b : f32[1, l, 1, 2, 3], f32[1, 1, 2, 3]
            %r = contract[blgen,blgn->blge] %h, %b : f32[1, l, 1, 2]
            %skip = contract[ge,blge->blge] %d, %x : f32[1, l, 1, 2]
            %sum = add %r, %skip : f32[1, l, 1, 2]
            %g = silu %z : f32[1, l, 1, 2]
            %y2 = mul %sum, %g : f32[1, l, 1, 2]
            return %y \"y\", %y2 \"y2\", %last \"last\", %last2 \"last2\", %h \"h\", %h1 \"h1\", %last3 \"last3\"
        }",
    );
    let t = |seed, n: usize| f32s(&[1, 5, 1, n], &noise(seed, 5 * n));
    let inputs = [("x", t(1, 2)), ("dt", t(2, 2)), ("b", t(3, 3)), ("z", t(4, 2))];
    let out = run(&graph, Precision::Truth, &inputs).unwrap();
    for (a, b) in [("y", "y2"), ("last", "last2"), ("h", "h1"), ("last", "last3")] {
        assert_close(&out[a], &out[b], 1e-14, a);
    }
    let Data::Float(y) = out["y"].data() else { panic!("floats") };
    assert!(y.iter().any(|y| y.abs() > 0.01), "the comparison is not of zeros");
}
