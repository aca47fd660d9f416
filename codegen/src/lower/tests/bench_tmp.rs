use super::machine::Code;
use super::memory::Memory;
use super::problem::{Case, Fill};
use crate::target::{CpuLevel, CpuTarget};
use ssmc_ir::DType::F32;
use ssmc_ir::ops::SelectiveScan;
use ssmc_ir::{Bindings, Symbol};
use ssmc_passes::partition::partition;

fn time(name: &str, problem: super::problem::Problem, (b, l): (i64, i64)) {
    let plan = partition(&problem.graph).unwrap();
    for level in [CpuLevel::X86_64V3, CpuLevel::X86_64V4] {
        let target = CpuTarget::of_level(level);
        let launches = problem.launches(&plan, &target);
        let kernels: Vec<_> = launches.iter().map(|l| l.legal.clone()).collect();
        let asm = crate::llvm::emit_asm(&kernels, &target).unwrap();
        std::fs::write(format!("/tmp/diff-{name}-{}.s", level.name()), asm).unwrap();
        let Some(code) = Code::compile(&launches, &target) else { continue };
        let bindings = Bindings::from([(Symbol::new("b"), b), (Symbol::new("l"), l)]);
        let inputs = problem.inputs(&bindings, 1);
        let mut memory = Memory::new(&plan.graph, &launches, (&problem.weights, &inputs, &bindings));
        let flops: i64 = launches.iter().map(|l| l.lowered.flops.eval(&bindings).unwrap()).sum();
        let mut best = f64::INFINITY;
        for _ in 0..12 {
            let mut total = 0.0;
            for launch in &launches {
                total += code.run(launch, &mut memory);
            }
            best = best.min(total);
        }
        println!("{name} {}: {:.3} ms, {:.1} GFLOP/s", level.name(), best * 1e3, flops as f64 / best / 1e9);
    }
}

#[test]
fn bench() {
    for l in [384, 1] {
        let mut case = Case::new("mm");
        let x = case.input(F32, "b,l,768", Fill::Noise(1.0));
        let w = case.weight(F32, "1536,768", Fill::Noise(1.0));
        let y = case.b.contract("bld,ed->ble", &[x, w]).unwrap();
        time("mm", case.finish(&[y]), (1, l));
    }
    let mut case = Case::new("scan");
    let x = case.input(F32, "b,l,1,1536", Fill::Noise(1.0));
    let z = case.input(F32, "b,l,1,1536", Fill::Noise(1.0));
    let dt = case.input(F32, "b,l,1,1536", Fill::Range(0.01, 1.0));
    let a = case.weight(F32, "1,1536,16", Fill::Range(-2.0, -0.1));
    let d = case.weight(F32, "1,1536", Fill::Range(-2.0, -0.1));
    let b = case.input(F32, "b,l,1,16", Fill::Noise(1.0));
    let c = case.input(F32, "b,l,1,16", Fill::Noise(1.0));
    let op = SelectiveScan { dt_softplus: true, ..SelectiveScan::default() };
    let y = case.node(op, &[Some(x), Some(dt), Some(a), Some(b), Some(c), Some(d), Some(z)]);
    time("scan", case.finish(&[y[0]]), (1, 512));
}

#[test]
fn dump() {
    let mut case = Case::new("cs");
    let x = case.input(ssmc_ir::DType::BF16, "b,l,17", Fill::Noise(1.0));
    let y = case.op(ssmc_ir::ops::CumSum { axis: 1, exclusive: false, reverse: false }, &[x]);
    let problem = case.finish(&[y]);
    let plan = partition(&problem.graph).unwrap();
    let target = CpuTarget::of_level(CpuLevel::X86_64V4);
    let launches = problem.launches(&plan, &target);
    let kernels: Vec<_> = launches.iter().map(|l| l.legal.clone()).collect();
    std::fs::write("/tmp/diff-cs.s", crate::llvm::emit_asm(&kernels, &target).unwrap()).unwrap();
    std::fs::write("/tmp/diff-cs.ll", crate::llvm::emit_llvm_ir(&kernels, &target).unwrap()).unwrap();
}
