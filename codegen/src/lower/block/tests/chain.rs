//! Steps of mixers as the partitioner cuts them: what one kernel does where there is one sequence.

use super::problem::launch;
use super::*;
use ssmc_ir::{Bindings, Data, Group, Interpreter, Plan, Symbol, Tensor, Weight, Weights, parse};
use ssmc_passes::partition::partition;
use std::collections::BTreeMap;

/// A mixer with step sizes of a product. `D` is the width, `E` the channels, `R` the rank of step sizes.
fn selective(d: i64, e: i64, r: i64, n: i64, weights: &str) -> String {
    let (e2, xs, rb, rc) = (2 * e, r + 2 * n, r, r + n);
    format!(
        r#"func @mixer(%x: f32[batch, 1, {d}], %window: f32[batch, 3, {e}], %h0: f32[batch, 1, {e}, {n}]) {{
  %norm = weight {{name="norm", shape=[{d}]}} : f32[{d}]
  %w_in0 = weight {{dtype={weights}, name="in", shape=[{e2}, {d}]}} : {weights}[{e2}, {d}]
  %w_in = cast %w_in0 {{to=f32}} : f32[{e2}, {d}]
  %taps = weight {{name="taps", shape=[{e}, 4]}} : f32[{e}, 4]
  %shift = weight {{name="shift", shape=[{e}]}} : f32[{e}]
  %w_x = weight {{name="x", shape=[{xs}, {e}]}} : f32[{xs}, {e}]
  %w_dt0 = weight {{dtype={weights}, name="dt", shape=[{e}, {r}]}} : {weights}[{e}, {r}]
  %w_dt = cast %w_dt0 {{to=f32}} : f32[{e}, {r}]
  %a = weight {{name="a", shape=[1, {e}, {n}]}} : f32[1, {e}, {n}]
  %bias = weight {{name="bias", shape=[1, {e}]}} : f32[1, {e}]
  %w_out = weight {{name="out", shape=[{d}, {e}]}} : f32[{d}, {e}]
  %u0 = rms_norm %x, %norm {{eps=1e-5}} : f32[batch, 1, {d}]
  %u = reshape %u0 {{shape=[batch, {d}]}} : f32[batch, {d}]
  %xz = contract[ab,cb->ac] %u, %w_in : f32[batch, {e2}]
  %v0 = slice %xz {{axis=1, len={e}}} : f32[batch, {e}]
  %v1 = reshape %v0 {{shape=[batch, 1, {e}]}} : f32[batch, 1, {e}]
  %v, %tail = ssm.causal_conv1d %v1, %taps, %shift, %window {{activation=silu}} : f32[batch, 1, {e}], f32[batch, 3, {e}]
  %z0 = slice %xz {{axis=1, len={e}, start={e}}} : f32[batch, {e}]
  %z = reshape %z0 {{shape=[batch, 1, 1, {e}]}} : f32[batch, 1, 1, {e}]
  %v2 = reshape %v {{shape=[batch, {e}]}} : f32[batch, {e}]
  %all = contract[ab,cb->ac] %v2, %w_x : f32[batch, {xs}]
  %b0 = slice %all {{axis=1, len={n}, start={rb}}} : f32[batch, {n}]
  %b = reshape %b0 {{shape=[batch, 1, 1, {n}]}} : f32[batch, 1, 1, {n}]
  %c0 = slice %all {{axis=1, len={n}, start={rc}}} : f32[batch, {n}]
  %c = reshape %c0 {{shape=[batch, 1, 1, {n}]}} : f32[batch, 1, 1, {n}]
  %low = slice %all {{axis=1, len={r}}} : f32[batch, {r}]
  %dt0 = contract[ab,cb->ac] %low, %w_dt : f32[batch, {e}]
  %dt = reshape %dt0 {{shape=[batch, 1, 1, {e}]}} : f32[batch, 1, 1, {e}]
  %s = reshape %v {{shape=[batch, 1, 1, {e}]}} : f32[batch, 1, 1, {e}]
  %y0, %h = ssm.selective_scan %s, %dt, %a, %b, %c, _, %z, %bias, %h0 {{dt_softplus=true}} : f32[batch, 1, 1, {e}], f32[batch, 1, {e}, {n}]
  %y1 = reshape %y0 {{shape=[batch, {e}]}} : f32[batch, {e}]
  %o = contract[ab,cb->ac] %y1, %w_out : f32[batch, {d}]
  %o1 = reshape %o {{shape=[batch, 1, {d}]}} : f32[batch, 1, {d}]
  %r = add %o1, %x : f32[batch, 1, {d}]
  return %r "y", %tail "window", %h "h0"
}}"#
    )
}

/// A convolution of a part in the middle, and a norm before the last product.
fn part(d: i64, weights: &str) -> String {
    format!(
        r#"func @part(%x: f32[batch, {d}], %window: f32[batch, 3, 10]) {{
  %w_in0 = weight {{dtype={weights}, name="in", shape=[21, {d}]}} : {weights}[21, {d}]
  %w_in = cast %w_in0 {{to=f32}} : f32[21, {d}]
  %taps = weight {{name="taps", shape=[10, 4]}} : f32[10, 4]
  %w_out = weight {{name="out", shape=[5, 10]}} : f32[5, 10]
  %p = contract[ab,cb->ac] %x, %w_in : f32[batch, 21]
  %v0 = slice %p {{axis=1, len=10, start=7}} : f32[batch, 10]
  %v1 = reshape %v0 {{shape=[batch, 1, 10]}} : f32[batch, 1, 10]
  %v, %tail = ssm.causal_conv1d %v1, %taps, _, %window {{activation=none}} : f32[batch, 1, 10], f32[batch, 3, 10]
  %g = rms_norm %v {{eps=1e-5}} : f32[batch, 1, 10]
  %g1 = reshape %g {{shape=[batch, 10]}} : f32[batch, 10]
  %o = contract[ab,cb->ac] %g1, %w_out : f32[batch, 5]
  return %o "y", %tail "window", %p "p"
}}"#
    )
}

/// A product that scales its row by what a norm would, and the step of a convolution.
fn scaled(d: i64, weights: &str) -> String {
    format!(
        r#"func @scaled(%x: f32[batch, 1, {d}], %window: f32[batch, 3, 10]) {{
  %w_in0 = weight {{dtype={weights}, name="in", shape=[21, {d}]}} : {weights}[21, {d}]
  %w_in = cast %w_in0 {{to=f32}} : f32[21, {d}]
  %taps = weight {{name="taps", shape=[10, 4]}} : f32[10, 4]
  %squares = mul %x, %x : f32[batch, 1, {d}]
  %mean = reduce %squares {{axes=[2], f=mean}} : f32[batch, 1]
  %c = constant {{data=[1e-5], shape=[]}} : f32[]
  %eps = broadcast %c {{axes=[], shape=[batch, 1]}} : f32[batch, 1]
  %sum = add %mean, %eps : f32[batch, 1]
  %r = rsqrt %sum : f32[batch, 1]
  %x1 = reshape %x {{shape=[batch, {d}]}} : f32[batch, {d}]
  %p0 = contract[ab,cb->ac] %x1, %w_in : f32[batch, 21]
  %r1 = reshape %r {{shape=[batch]}} : f32[batch]
  %all = broadcast %r1 {{axes=[0], shape=[batch, 21]}} : f32[batch, 21]
  %p = mul %p0, %all : f32[batch, 21]
  %v0 = slice %p {{axis=1, len=10, start=7}} : f32[batch, 10]
  %v1 = reshape %v0 {{shape=[batch, 1, 10]}} : f32[batch, 1, 10]
  %v, %tail = ssm.causal_conv1d %v1, %taps, _, %window {{activation=none}} : f32[batch, 1, 10], f32[batch, 3, 10]
  return %v "y", %tail "window", %p "p"
}}"#
    )
}

fn numbers(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 37 + seed * 11) % 23) as f64 / 16.0 - 0.7).collect()
}

struct Cut {
    plan: Plan,
    weights: Weights,
    inputs: BTreeMap<String, Tensor>,
    bindings: Bindings,
}

impl Cut {
    fn of(text: &str, batch: usize) -> Self {
        let graph = parse(text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
        let plan = partition(&graph).unwrap();
        let mut weights = Weights::new();
        for (i, (_, node)) in plan.graph.nodes().enumerate() {
            if let Op::WeightRef(op) = &node.op {
                let ty = plan.graph.ty(node.results[0]).clone();
                let shape: Vec<usize> = ty.shape.as_const().unwrap().iter().map(|n| *n as usize).collect();
                let data = Data::Float(numbers(shape.iter().product(), i));
                let bytes = Tensor::new(ty.dtype, shape, data).unwrap().rounded().to_bytes();
                weights.insert(&op.name, Weight { ty, bytes: bytes.into() });
            }
        }
        let bindings = Bindings::from([(Symbol::new("batch"), batch as i64)]);
        let input = |(i, port): (usize, &ssmc_ir::Port)| {
            let shape = &plan.graph.ty(port.value).shape;
            let shape: Vec<usize> = shape.iter().map(|d| d.eval(&bindings).unwrap() as usize).collect();
            let data = numbers(shape.iter().product(), i + 50);
            (port.name.clone(), Tensor::floats(DType::F32, shape, data).unwrap().rounded())
        };
        let inputs = plan.graph.inputs().iter().enumerate().map(input).collect();
        Cut { plan, weights, inputs, bindings }
    }

    /// The kernels of all chains give what the groups would.
    fn check(&self, chains: &[Chain]) {
        let graph = &self.plan.graph;
        let truth = Interpreter::new(graph, &self.weights).run_recorded(&self.inputs).unwrap().values;
        let tensors = truth.iter().map(|(value, tensor)| (*value, tensor.clone().rounded())).collect();
        for chain in chains {
            let kernel = lower_chain(&self.plan, chain).unwrap();
            let text = kernel.kernel.to_string();
            assert_eq!(crate::kernel::text::parse(&text).as_ref(), Ok(&kernel.kernel));
            let found = launch(graph, &kernel, &self.bindings, (&tensors, &mut Default::default())).unwrap();
            let written: Vec<ValueId> = found.keys().copied().collect();
            let mut expected = chain.merged(&self.plan).outputs;
            expected.sort_unstable();
            assert_eq!(written, expected);
            for (value, found) in found {
                for (x, y) in found.to_f64().into_iter().zip(truth[&value].to_f64()) {
                    assert!((x - y).abs() <= 2e-5 * (1.0 + y.abs()), "{chain:?}, {value}: {x} is not {y}");
                }
            }
        }
    }

    fn names(&self, chain: &Chain) -> Vec<&'static str> {
        let graph = &self.plan.graph;
        let name = |group: &Group| graph.node(group.root).op.name();
        self.plan.groups[chain.groups.clone()].iter().map(name).collect()
    }
}

#[test]
fn kernels_of_a_selective_step() {
    for weights in ["f32", "bf16"] {
        for (d, e, r, n) in [(16, 24, 8, 16), (64, 33, 48, 16), (520, 7, 24, 4), (16, 5, 8, 32), (6, 4, 8, 8)]
        {
            let cut = Cut::of(&selective(d, e, r, n, weights), 1);
            let found = chains(&cut.plan);
            let names: Vec<_> = found.iter().map(|chain| cut.names(chain)).collect();
            assert_eq!(
                names,
                [vec!["rms_norm", "contract", "ssm.causal_conv1d"], vec!["contract", "ssm.selective_scan"]]
            );
            cut.check(&found);
        }
    }
}

#[test]
fn a_convolution_of_a_part_and_a_norm_before_a_product() {
    for weights in ["f32", "bf16"] {
        for d in [1, 7, 8, 96, 2560] {
            let cut = Cut::of(&part(d, weights), 1);
            let found = chains(&cut.plan);
            let names: Vec<_> = found.iter().map(|chain| cut.names(chain)).collect();
            assert_eq!(names, [["contract", "ssm.causal_conv1d"], ["rms_norm", "contract"]]);
            cut.check(&found);
        }
    }
}

#[test]
fn a_product_that_scales_its_row_by_itself() {
    for weights in ["f32", "bf16"] {
        for d in [1, 7, 8, 96, 2560] {
            let cut = Cut::of(&scaled(d, weights), 1);
            let found = chains(&cut.plan);
            let names: Vec<_> = found.iter().map(|chain| cut.names(chain)).collect();
            assert_eq!(names, [["reduce", "contract", "ssm.causal_conv1d"]]);
            cut.check(&found);
        }
    }
    // Another scale than that of the row would be taken for the convolution as well.
    let other = scaled(8, "f32").replace("add %mean, %eps", "sub %mean, %eps");
    assert_eq!(chains(&Cut::of(&other, 1).plan), []);
}

#[test]
fn with_several_sequences_the_groups_run_alone() {
    let cut = Cut::of(&part(8, "f32"), 3);
    for chain in chains(&cut.plan) {
        assert_eq!(chain.is_one().eval(&cut.bindings).unwrap(), 0);
        assert_eq!(lower_chain(&cut.plan, &chain).unwrap().grid.eval(&cut.bindings).unwrap(), 0);
    }
}

#[test]
fn what_is_read_elsewhere_stays_in_memory() {
    let text = part(8, "f32").replace("%p \"p\"", "%g \"p\"");
    let cut = Cut::of(&text, 1);
    let names: Vec<_> = chains(&cut.plan).iter().map(|chain| cut.names(chain)).collect();
    assert_eq!(names, [["contract", "ssm.causal_conv1d"]]);
}

#[test]
fn ranks_that_no_load_divides_are_left_alone() {
    let cut = Cut::of(&selective(16, 24, 3, 16, "f32"), 1);
    let names: Vec<_> = chains(&cut.plan).iter().map(|chain| cut.names(chain)).collect();
    assert_eq!(names, [["rms_norm", "contract", "ssm.causal_conv1d"]]);
}
