//! Language models whose values between kernels are halves: kernels for GPUs in the kernel interpreter, and what the
//! rounding costs, against the truth.
#![expect(clippy::unwrap_used, reason = "a fault of a test's own helper ends the test")]

use ssmc_codegen::kernel::interp::{Arg as BufferArg, Interpreter as KernelInterpreter};
use ssmc_codegen::lower::{Arg, lower_alternatives};
use ssmc_codegen::target::{GpuArch, GpuTarget};
use ssmc_frontend::safetensors::ImportOptions;
use ssmc_frontend::safetensors::synthetic::{Mixer, Storage, SyntheticModel};
use ssmc_ir::ops::Op;
use ssmc_ir::{
    Bindings, DType, Dim, Graph, Interpreter, Model, Plan, Precision, Symbol, Tensor, ValueId, Weights,
};
use ssmc_passes::compute::{ComputeType, round};
use ssmc_passes::egraph::{RewriteOptions, rewrite};
use ssmc_passes::manager::Manager;
use ssmc_passes::norms::{Scaled, fold};
use ssmc_passes::partition::{partition, partition_with_copies};
use ssmc_passes::pipeline::PHASES;
use ssmc_passes::programs;
use std::collections::BTreeMap;
use std::path::Path;

/// `forward` of a model folder, rewritten: its graph, its weights, and the graph that GPUs get, with the norms folded.
fn forward(folder: &Path) -> (Graph, Weights, Graph, usize) {
    let model = ssmc_frontend::import(folder, &ImportOptions::default()).unwrap();
    let programs = programs::derive(&model.graph).unwrap();
    let program = programs.into_iter().find(|p| p.name == "forward").unwrap();
    let mut staged = Model { graph: program.graph, weights: model.weights, ..Model::default() };
    Manager::new().run(&mut staged, PHASES).unwrap();
    let graph = rewrite(&staged.graph, &RewriteOptions::default()).unwrap().graph;
    let half = ComputeType::Weights.half(&graph).expect("the weights are halves");
    let rounded = round(&partition(&graph).unwrap(), half).unwrap();
    let mut weights = staged.weights;
    let plan = partition(&rounded.graph).unwrap();
    let folded = fold(&plan, &mut weights, &mut Scaled::default()).unwrap();
    let n_folded = folded.norms.iter().filter(|norm| norm.kept.is_none()).count();
    (graph, weights, folded.graph, n_folded)
}

/// Root mean square of the difference over that of the truth.
fn error(found: &Tensor, truth: &Tensor) -> f64 {
    let sum = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let (found, truth) = (found.to_f64(), truth.to_f64());
    let difference = sum(&mut found.iter().zip(&truth).map(|(x, y)| x - y));
    (difference / sum(&mut truth.iter().copied())).sqrt()
}

fn tokens(batch: usize, len: usize, vocab: i64) -> BTreeMap<String, Tensor> {
    let ids = (0..batch * len).map(|i| (i as i64 * 7919 + 13) % vocab).collect();
    BTreeMap::from([("input_ids".to_owned(), Tensor::ints(DType::I64, [batch, len], ids).unwrap())])
}

#[test]
fn logits_of_the_demo_model_stay_within_the_bound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-lm");
    let (graph, weights, rounded, n_folded) = forward(&folder);
    // The rows of the first norm come from the table, the head shares its weight with that.
    assert_eq!(n_folded, 8);
    let inputs = tokens(1, 6, 4096);
    let run = |graph: &Graph, precision| {
        Interpreter::new(graph, &weights).precision(precision).run(&inputs).unwrap().remove("logits").unwrap()
    };
    let truth = run(&graph, Precision::Truth);
    let found = error(&run(&rounded, Precision::Typed), &truth);
    println!("relative root mean square: {found}");
    assert!(found > 1e-4 && found <= ComputeType::BOUND, "{found}");
}

/// Runs every kernel of a plan, one after another. Returns the outputs.
fn run(plan: &Plan, target: &GpuTarget, (bindings, known): (&Bindings, Tensors)) -> BTreeMap<String, Tensor> {
    let graph = &plan.graph;
    let eval = |dim: &Dim| dim.eval(bindings).unwrap();
    let shape = |value: ValueId| -> Vec<usize> {
        graph.ty(value).shape.iter().map(|dim| eval(dim) as usize).collect()
    };
    let mut values: BTreeMap<ValueId, Vec<u8>> =
        known.into_iter().map(|(value, tensor)| (value, tensor.rounded().to_bytes())).collect();
    for group in &plan.groups {
        let op = graph.node(group.root).op.name();
        let alternatives = lower_alternatives(graph, group, target).unwrap();
        let running: Vec<_> = alternatives.into_iter().filter(|lowered| eval(&lowered.grid) > 0).collect();
        assert!(!running.is_empty(), "{op}: nothing runs");
        let mut scratch: Vec<Vec<u8>> = Vec::new();
        for lowered in running {
            // What is to be written starts as NaN.
            let more = lowered.scratch.iter().skip(scratch.len());
            scratch.extend(more.map(|n| vec![0xff; eval(n) as usize]));
            let mut buffers: Vec<Vec<u8>> = Vec::new();
            for (arg, param) in lowered.args.iter().zip(&lowered.kernel.params) {
                buffers.push(match arg {
                    Arg::Value(value) if param.access.writes() => {
                        vec![0xff; shape(*value).iter().product::<usize>() * param.elem.size()]
                    }
                    Arg::Value(value) => values[value].clone(),
                    Arg::Scratch(i) => scratch[*i].clone(),
                    Arg::Packed(..) => panic!("{op}: kernels of GPUs read plain tensors"),
                    Arg::Slot(..) => panic!("{op}: these models have no loops"),
                });
            }
            let dims: Vec<i64> = lowered.dims.iter().map(eval).collect();
            let places: Vec<BufferArg> = (0..buffers.len()).map(BufferArg::start).collect();
            let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
            KernelInterpreter::new(&lowered.kernel)
                .and_then(|kernel| kernel.run(0..eval(&lowered.grid), &dims, &places, &mut slices))
                .unwrap_or_else(|fault| panic!("{op}: {fault}"));
            for ((arg, param), bytes) in lowered.args.iter().zip(&lowered.kernel.params).zip(buffers) {
                match arg {
                    Arg::Value(value) if param.access.writes() => {
                        values.insert(*value, bytes);
                    }
                    Arg::Scratch(i) => scratch[*i] = bytes,
                    Arg::Value(_) | Arg::Packed(..) | Arg::Slot(..) => {}
                }
            }
        }
    }
    let output = |port: &ssmc_ir::Port| {
        let mut value = port.value;
        while !values.contains_key(&value) {
            value = graph.def_node(value).unwrap().operands[0].unwrap();
        }
        let ty = graph.ty(port.value);
        (port.name.clone(), Tensor::from_bytes(ty.dtype, shape(port.value), &values[&value]).unwrap())
    };
    graph.outputs().iter().map(output).collect()
}

type Tensors = BTreeMap<ValueId, Tensor>;

fn small(mixer: Mixer, storage: Storage) -> SyntheticModel {
    SyntheticModel {
        mixer,
        d_model: 64,
        d_inner: 128,
        d_state: 16,
        n_layers: 2,
        vocab_size: 97,
        ..SyntheticModel::mamba_130m(storage)
    }
}

/// Kernels of both architectures, with lengths that no tile divides and rows for tiles and for vectors.
#[test]
fn kernels_of_rounded_models_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let mamba = Mixer::Mamba { dt_rank: 8 };
    let mamba2 = Mixer::Mamba2 { head_dim: 32, n_groups: 1, chunk_size: 64 };
    let large = SyntheticModel { d_state: 64, ..small(mamba2, Storage::BF16) };
    for (i, model) in [small(mamba, Storage::BF16), small(mamba, Storage::F16), large].into_iter().enumerate()
    {
        let folder = dir.path().join(i.to_string());
        model.write(&folder).unwrap();
        let (_, weights, rounded, n_folded) = forward(&folder);
        // f16 has no range for it; Mamba-2 has a second norm in each layer.
        assert_eq!(n_folded, [1, 0, 3][i]);
        let plan = partition_with_copies(&rounded).unwrap();
        for (batch, len) in [(1, 1), (2, 3), (1, 19)] {
            let inputs = tokens(batch, len, 97);
            let recorded = Interpreter::new(&plan.graph, &weights).run_recorded(&inputs).unwrap();
            let truth = &recorded.values[&plan.graph.output("logits").unwrap()];
            let is_known = |value: &ValueId| match plan.graph.def_node(*value) {
                None => true,
                Some(node) => matches!(node.op, Op::WeightRef(_) | Op::Constant(_)),
            };
            let known: Tensors = recorded
                .values
                .iter()
                .filter(|(value, _)| is_known(value))
                .map(|(value, tensor)| (*value, tensor.clone()))
                .collect();
            let bindings =
                Bindings::from([(Symbol::new("batch"), batch as i64), (Symbol::new("seq_len"), len as i64)]);
            for arch in GpuArch::ALL {
                let found = run(&plan, &GpuTarget::of_arch(arch), (&bindings, known.clone()));
                let error = error(&found["logits"], truth);
                println!("{i}, {batch} x {len}, {}: {error}", arch.name());
                assert!(error > 0.0 && error <= ComputeType::BOUND, "{i}, {batch} x {len}: {error}");
            }
        }
    }
}
