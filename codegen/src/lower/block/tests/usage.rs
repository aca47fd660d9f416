//! What the schedules cost on a machine: registers and shared memory, as NVIDIA's assembler counts them.

use super::*;
use crate::legalize::gpu::legalize;
use crate::ptx::{assembler, dynamic_shared_bytes, module};
use ssmc_ir::ops::{RmsNorm, Unary, UnaryFn};
use std::collections::BTreeMap;

fn table(arch: GpuArch) -> Option<String> {
    let target = GpuTarget::of_arch(arch);
    let mut kernels = Vec::new();
    let mut dynamic = BTreeMap::new();
    let mut add = |name: &str, p: &Problem, pick: usize| {
        let mut chosen = None;
        p.lower(|graph, group| {
            chosen = lower_alternatives(graph, group, &target)?.into_iter().nth(pick);
            lower_block(graph, group, &target)
        })
        .unwrap();
        let mut kernel = legalize(&chosen.unwrap().kernel).unwrap();
        kernel.name = name.to_owned();
        dynamic.insert(name.to_owned(), dynamic_shared_bytes(&kernel, &target));
        kernels.push(kernel);
    };
    let rows = |op: Op, others: &[Option<ValueId>]| {
        let mut p = Problem::new();
        let x = p.input("x", DType::F32, &["rows", "768"]);
        let y = p.op(op, &[&[Some(x)], others].concat())[0];
        p.output(y);
        p
    };
    let mixer = selective_scan::Case { n: 16, ..selective_scan::CASE };
    let half = selective_scan::Case { dtype: DType::BF16, channels: 1536, ..mixer };
    for (what, i) in [("scan_of_many", 0), ("scan_of_some", 2), ("scan_of_few", 4)] {
        add(what, &mixer.problem(), i);
        add(&format!("{what}_in_bf16"), &half.problem(), i);
    }
    let product = matmul::Case { x: &["rows", "64"], w: &["64", "64"], ..matmul::CASE };
    let long = matmul::Case { x: &["rows", "2560"], w: &["10240", "2560"], ..product };
    let long = matmul::Case { dtypes: (DType::BF16, DType::BF16), ..long };
    add("product_of_one_row", &product.problem(), 0);
    add("product_of_one_long_row", &long.problem(), 0);
    add("product_of_few_rows", &product.problem(), 1);
    add("product_in_f32", &product.problem(), 2);
    // Warp groups have one more schedule, for few rows.
    let many = if arch == GpuArch::Sm90a { 3 } else { 2 };
    add("product_in_bf16", &matmul::Case { dtypes: (DType::BF16, DType::BF16), ..product }.problem(), many);
    if arch == GpuArch::Sm90a {
        add("product_of_some_rows", &long.problem(), 2);
        let split = matmul::Case { w: &["768", "2560"], ..long };
        add("product_of_some_rows_in_parts", &split.problem(), 2);
        add("sums_of_parts", &split.problem(), 3);
    }
    let large = matmul::Case { w: &["256", "64"], dtypes: (DType::BF16, DType::BF16), ..product };
    add("large_product_in_bf16", &large.problem(), many);
    add(
        "large_product_of_columns_in_bf16",
        &matmul::Case { spec: "mk,kn->mn", w: &["64", "256"], ..large }.problem(),
        2,
    );
    add("conv1d", &conv1d::Case { channels: 1536, dtype: DType::BF16, ..conv1d::CASE }.problem(), 0);
    let heads = ssd::Case { heads: 24, ..ssd::CASE };
    add("ssd_ends", &heads.problem(), 0);
    add("ssd", &heads.problem(), 1);
    add("ssd_of_one_head", &ssd::Case { heads: 1, ..heads }.problem(), 1);
    add("update_of_heads", &update::CASE.problem(), 0);
    add("update_of_channels", &update::Case { heads: 0, n: 16, ..update::CASE }.problem(), 0);
    add("exp", &rows(Unary { f: UnaryFn::Exp }.into(), &[]), 0);
    add("rms_norm", &rows(RmsNorm { eps: 1e-5.into() }.into(), &[None]), 0);
    let text = module(&kernels, &target).unwrap();
    let mut usages = assembler::assemble("the schedules", &text, &target)?;
    usages.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    let line = |u: &assembler::Usage| {
        assert_eq!(u.spilled_bytes, 0, "{arch:?} {u:?}");
        let shared = u64::from(u.shared_bytes) + dynamic[&u.kernel];
        format!("{}: {} registers, {shared} bytes shared\n", u.kernel, u.registers)
    };
    Some(usages.iter().map(line).collect())
}

#[test]
fn registers_and_shared_memory() {
    let tables = GpuArch::ALL.map(|arch| table(arch).map(|table| format!("{}\n{table}", arch.name())));
    let [Some(sm_80), Some(sm_90a)] = tables else { return };
    insta::assert_snapshot!(format!("{sm_80}\n{sm_90a}"));
}
