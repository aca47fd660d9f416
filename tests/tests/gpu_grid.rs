//! The grid of problems for GPUs, without one: every case has kernels and PTX, and every kernel runs for some size.

use ssmc_codegen::assemble::legal;
use ssmc_codegen::ptx;
use ssmc_codegen::target::{GpuArch, GpuTarget};
use ssmc_tests::gpu_grid::{DTYPES, cases, kernels, never_run};

#[test]
fn every_kernel_has_ptx_and_runs() {
    for dtype in DTYPES {
        let cases = cases(dtype, "").unwrap();
        let kernels = kernels(&cases).unwrap();
        for (level, arch) in GpuArch::ALL.into_iter().enumerate() {
            let legal = legal(&kernels, level).unwrap();
            let text = ptx::module(&legal, &GpuTarget::of_arch(arch)).unwrap();
            assert_eq!(text.matches(".visible .entry").count(), legal.len());
            let left = never_run(&kernels, &cases, arch).unwrap();
            assert!(
                left.is_empty(),
                "{} {}: {left:#?} of {} kernels",
                arch.name(),
                dtype.name(),
                legal.len()
            );
        }
    }
}

#[test]
fn a_difference_is_found() {
    let cases = cases(DTYPES[0], "small product").unwrap();
    let inputs = cases[0].inputs([1, 2]).unwrap();
    let truth = cases[0].truth(&inputs).unwrap().remove("y").unwrap();
    assert_eq!(cases[0].difference(&truth, &truth), None);
    let mut data = truth.to_f64();
    data[7] += 1e-3;
    let wrong = ssmc_ir::Tensor::floats(truth.dtype(), truth.shape().to_vec(), data).unwrap();
    assert!(cases[0].difference(&wrong, &truth).unwrap().starts_with("element 7: "));
}
