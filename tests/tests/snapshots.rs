//! Whole kernels as text: a change of a lowering shows here, line by line.
//!
//! One kernel per family, small enough to read. After a wanted change: `cargo xtask bless`, then read the difference.

#![expect(clippy::unwrap_used, reason = "a test stops at its first failure")]

use ssmc_codegen::lower::lower;
use ssmc_codegen::target::{CpuLevel, CpuTarget};
use ssmc_ir::ops::{
    Activation, BinaryFn, CausalConv1d, Contract, Mode, RmsNorm, SelectiveScan, Ssd, UnaryFn, WeightRef,
};
use ssmc_ir::{DType, Dim, GraphBuilder, Shape, TensorType, ValueId};
use ssmc_passes::partition::partition;

/// The type of an f32 tensor; `None` is the sequence length.
fn f32_of(dims: &[Option<i64>]) -> TensorType {
    let dims = dims.iter().map(|d| d.map_or_else(|| Dim::symbol("seq_len"), Dim::from));
    TensorType::new(DType::F32, dims.collect::<Shape>())
}

const L: Option<i64> = None;

/// The kernels of the graph that `build` makes, at level v4.
fn kernels(build: impl FnOnce(&mut GraphBuilder) -> ValueId) -> String {
    let mut g = GraphBuilder::new("f");
    let y = build(&mut g);
    g.output("y", y);
    let plan = partition(&g.finish()).unwrap();
    let target = CpuTarget::of_level(CpuLevel::X86_64V4);
    let lowered = plan.groups.iter().map(|group| lower(&plan.graph, group, &target).unwrap());
    lowered.map(|l| format!("; grid {}\n{}", l.grid, l.kernel)).collect::<Vec<_>>().join("\n")
}

fn weight(g: &mut GraphBuilder, name: &str, dtype: DType, shape: &[i64]) -> ValueId {
    let shape: Shape = shape.iter().copied().collect();
    g.op(WeightRef { dtype, name: name.into(), shape }, &[]).unwrap()
}

fn inputs<const N: usize>(g: &mut GraphBuilder, named: [(&str, TensorType); N]) -> [ValueId; N] {
    named.map(|(name, ty)| g.input(name, ty))
}

#[test]
fn product_with_residual() {
    insta::assert_snapshot!(kernels(|g| {
        let [x, residual] = inputs(g, [("x", f32_of(&[L, Some(8)])), ("residual", f32_of(&[L, Some(40)]))]);
        let w = weight(g, "w", DType::BF16, &[40, 8]);
        let w = g.cast(w, DType::F32).unwrap();
        let y = g.op(Contract::new("lk,nk->ln"), &[x, w]).unwrap();
        g.binary(BinaryFn::Add, y, residual).unwrap()
    }));
}

#[test]
fn silu_of_a_slice() {
    insta::assert_snapshot!(kernels(|g| {
        let [x] = inputs(g, [("x", f32_of(&[L, Some(40)]))]);
        let half = g.slice(x, 1, 20, 20).unwrap();
        g.unary(UnaryFn::Silu, half).unwrap()
    }));
}

#[test]
fn rms_norm() {
    insta::assert_snapshot!(kernels(|g| {
        let [x] = inputs(g, [("x", f32_of(&[L, Some(24)]))]);
        let w = weight(g, "w", DType::F32, &[24]);
        g.op(RmsNorm { eps: 1e-5.into() }, &[x, w]).unwrap()
    }));
}

#[test]
fn causal_conv1d() {
    insta::assert_snapshot!(kernels(|g| {
        let [x] = inputs(g, [("x", f32_of(&[Some(1), L, Some(16)]))]);
        let (w, bias) = (weight(g, "w", DType::F32, &[16, 3]), weight(g, "bias", DType::F32, &[16]));
        g.op(CausalConv1d { activation: Activation::Silu }, &[x, w, bias]).unwrap()
    }));
}

#[test]
fn selective_scan() {
    insta::assert_snapshot!(kernels(|g| {
        let wide = f32_of(&[Some(1), L, Some(1), Some(16)]);
        let narrow = f32_of(&[Some(1), L, Some(1), Some(2)]);
        let [x, dt, b, c] =
            inputs(g, [("x", wide.clone()), ("dt", wide), ("b", narrow.clone()), ("c", narrow)]);
        let a = weight(g, "a", DType::F32, &[1, 16, 2]);
        let op = SelectiveScan { dt_softplus: true, ..SelectiveScan::default() };
        g.op(op, &[x, dt, a, b, c]).unwrap()
    }));
}

#[test]
fn chunked_ssd() {
    insta::assert_snapshot!(kernels(|g| {
        let x = f32_of(&[Some(1), L, Some(1), Some(1), Some(16)]);
        let dt = f32_of(&[Some(1), L, Some(1), Some(1)]);
        let map = f32_of(&[Some(1), L, Some(1), Some(16)]);
        let [x, dt, b, c] = inputs(g, [("x", x), ("dt", dt), ("b", map.clone()), ("c", map)]);
        let a = weight(g, "a", DType::F32, &[1, 1]);
        let op = Ssd { mode: Mode::Chunked, chunk_size: 8, ..Ssd::default() };
        g.op(op, &[x, dt, a, b, c]).unwrap()
    }));
}
