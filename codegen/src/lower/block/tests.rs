//! Thread-block kernels in the kernel interpreter, against the truth of the graph interpreter.

mod faults;
mod matmul;
mod problem;
mod selective_scan;

use super::*;
use crate::target::GpuArch;
use problem::Problem;
use ssmc_ir::DType;

/// Error relative to 1 and to the number itself that results of a type may have.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 2e-5,
    }
}

fn targets() -> [GpuTarget; 2] {
    GpuArch::ALL.map(GpuTarget::of_arch)
}

#[test]
fn other_roots_are_reported() {
    let mut p = Problem::new();
    let x = p.input("x", DType::F32, &["m", "3"]);
    let y = p.op(ssmc_ir::ops::Unary { f: ssmc_ir::ops::UnaryFn::Exp }, &[Some(x)])[0];
    p.output(y);
    for target in targets() {
        let error = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap_err();
        let expected = format!("exp: it has no thread-block schedule for {}", target.arch.name());
        assert_eq!(error.to_string(), expected);
    }
}
