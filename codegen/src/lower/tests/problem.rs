//! A problem: a graph around one op with weights and a recipe for its inputs, compared at every stage with truth.

use super::super::{LowerError, Lowered, lower, lower_block};
use super::memory::Memory;
use crate::kernel::Kernel;
use crate::legalize::cpu::CpuOptions;
use crate::legalize::{cpu, gpu};
use crate::ptx;
use crate::target::{CpuLevel, CpuTarget, GpuArch, GpuTarget, Target};
use ssmc_ir::ops::{Op, Tolerance};
use ssmc_ir::{
    Bindings, DType, Data, Dim, Graph, GraphBuilder, Group, Interpreter, Plan, Shape, Symbol, Tensor,
    TensorType, ValueId, Weight, Weights,
};
use ssmc_passes::partition::partition;
use std::collections::BTreeMap;

/// What the elements of an input are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    /// Numbers in -scale..scale; integers are rounded.
    Noise(f64),
    /// Numbers in low..high.
    Range(f64, f64),
    /// Step sizes: ordinary, huge, tiny, denormal and zero ones in turn.
    Steps,
    /// Consecutive sequences of one to four steps.
    Sequences,
    /// These numbers in turn.
    Values(&'static [f64]),
    /// Noise with this number at a tenth of the places, the first included.
    Salted(f64),
}

/// A stream of numbers in -1..1, the same on every run.
#[derive(Clone, Debug)]
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn number(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 33) as usize % n
    }
}

const STEPS: [f64; 12] = [0.1, 0.7, 0.01, 25.0, 0.3, 1e-8, 0.2, 0.0, 1e4, 0.05, 1e-40, 0.5];

impl Fill {
    fn tensor(self, dtype: DType, shape: &[usize], seed: u64) -> Tensor {
        let n = shape.iter().product();
        let mut noise = Noise::new(seed);
        let last = shape.last().copied().unwrap_or(1);
        let mut sequence = 0.0;
        let number = |i: usize| match self {
            Fill::Noise(scale) => noise.number() * scale,
            Fill::Range(low, high) => low + (noise.number() + 1.0) / 2.0 * (high - low),
            Fill::Steps => STEPS[(i + i / 12) % STEPS.len()],
            Fill::Values(values) => values[i % values.len()],
            Fill::Sequences => {
                if i.is_multiple_of(last) {
                    sequence = 0.0;
                } else if noise.below(3) == 0 {
                    sequence += 1.0;
                }
                sequence
            }
            Fill::Salted(salt) => {
                let x = noise.number();
                if i == 0 || noise.below(10) == 0 { salt } else { x }
            }
        };
        let numbers: Vec<f64> = (0..n).map(number).collect();
        let tensor = if dtype == DType::Bool {
            Tensor::bools(shape, numbers.iter().map(|x| *x > 0.0).collect())
        } else if dtype.is_int() {
            Tensor::ints(dtype, shape, numbers.iter().map(|x| x.round() as i64).collect())
        } else {
            Tensor::floats(dtype, shape, numbers)
        };
        tensor.unwrap().rounded()
    }
}

/// The shape written as `b,l,4`.
pub(super) fn shape(text: &str) -> Shape {
    let dims = text.split(',').filter(|d| !d.is_empty());
    dims.map(|d| d.parse::<i64>().map_or_else(|_| Dim::symbol(d), Dim::from)).collect()
}

/// Builds a [`Problem`].
pub(super) struct Case {
    name: String,
    pub(super) b: GraphBuilder,
    fills: Vec<Fill>,
    weights: Weights,
}

impl Case {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), b: GraphBuilder::new("f"), fills: Vec::new(), weights: Weights::new() }
    }

    pub(super) fn input(&mut self, dtype: DType, dims: &str, fill: Fill) -> ValueId {
        let name = format!("x{}", self.fills.len());
        self.fills.push(fill);
        self.b.input(name, TensorType::new(dtype, shape(dims)))
    }

    pub(super) fn weight(&mut self, dtype: DType, dims: &str, fill: Fill) -> ValueId {
        let ty = TensorType::new(dtype, shape(dims));
        let extents: Vec<usize> = ty.shape.iter().map(|d| d.as_const().unwrap() as usize).collect();
        let name = format!("w{}", self.weights.len());
        let tensor = fill.tensor(dtype, &extents, 77 + self.weights.len() as u64);
        self.weights.insert(&name, Weight { ty: ty.clone(), bytes: tensor.to_bytes().into() });
        self.b.weight(name, &ty).unwrap()
    }

    /// Adds a node; its operands may be absent.
    pub(super) fn node(&mut self, op: impl Into<Op>, operands: &[Option<ValueId>]) -> Vec<ValueId> {
        self.b.node(op, operands, Vec::new()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    pub(super) fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> ValueId {
        self.b.op(op, operands).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    pub(super) fn finish(mut self, outputs: &[ValueId]) -> Problem {
        for (i, value) in outputs.iter().enumerate() {
            self.b.output(format!("y{i}"), *value);
        }
        let graph = self.b.finish();
        let tolerance = tolerance(&graph);
        Problem {
            name: self.name,
            graph,
            fills: self.fills,
            weights: self.weights,
            tolerance,
            reassociated: false,
        }
    }
}

/// The widest tolerance of any op in the narrowest floating-point type that occurs.
fn tolerance(graph: &Graph) -> Tolerance {
    let mut widest = Tolerance::EXACT;
    let floats = graph.values().map(|v| graph.ty(v).dtype).filter(|d| d.is_float());
    let Some(dtype) =
        floats.max_by(|a, b| Tolerance::rounding(*a).rtol.total_cmp(&Tolerance::rounding(*b).rtol))
    else {
        return widest;
    };
    for (_, node) in graph.nodes() {
        let t = node.op.tolerance(dtype);
        widest = Tolerance { rtol: widest.rtol.max(t.rtol), atol: widest.atol.max(t.atol) };
    }
    widest
}

/// A graph, what it runs on and how close to truth it must come.
pub(super) struct Problem {
    name: String,
    pub(super) graph: Graph,
    fills: Vec<Fill>,
    weights: Weights,
    tolerance: Tolerance,
    /// Whether an infinity may be a NaN, because sums are taken in another order.
    pub(super) reassociated: bool,
}

/// A launch in its two forms.
pub(super) struct Launch {
    pub(super) lowered: Lowered,
    pub(super) legal: Kernel,
}

impl Problem {
    /// The problem with another tolerance.
    pub(super) fn within(mut self, rtol: f64, atol: f64) -> Self {
        self.tolerance = Tolerance { rtol, atol };
        self
    }

    /// The launches of a plan, in order.
    fn launches(&self, plan: &Plan, target: &Target) -> Vec<Launch> {
        let launch = |(i, group): (usize, &Group)| {
            let mut lowered = lower_for(&plan.graph, group, target)
                .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.name, plan.graph));
            lowered.kernel.name = format!("k{i}");
            let legal = match target {
                Target::Cpu(cpu) => cpu::legalize(&lowered.kernel, CpuOptions::of(cpu)),
                Target::Gpu(_) => gpu::legalize(&lowered.kernel),
            };
            Launch { lowered, legal: legal.unwrap() }
        };
        plan.groups.iter().enumerate().map(launch).collect()
    }

    /// Compares every stage on every level with truth, for each value of the symbols `b` and `l`.
    pub(super) fn check(&self, extents: &[(i64, i64)]) {
        let plan = partition(&self.graph).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let cpus = CpuLevel::ALL.map(|level| Target::Cpu(CpuTarget::of_level(level)));
        let gpu = Target::Gpu(GpuTarget::of_arch(GpuArch::Sm80));
        let (mut seen, mut seen_lowered) = (Vec::<Vec<Kernel>>::new(), Vec::<Vec<Kernel>>::new());
        for target in cpus.into_iter().chain([gpu]) {
            let launches = self.launches(&plan, &target);
            let legal: Vec<Kernel> = launches.iter().map(|launch| launch.legal.clone()).collect();
            // What a level adds to another may not concern these kernels.
            if seen.contains(&legal) {
                continue;
            }
            seen.push(legal);
            let lowered: Vec<Kernel> = launches.iter().map(|launch| launch.lowered.kernel.clone()).collect();
            let is_new = !seen_lowered.contains(&lowered);
            seen_lowered.push(lowered);
            // Multiply-adds without the instruction take long in the interpreter.
            let is_slow = target.as_cpu().is_some_and(|cpu| !cpu.has_fma);
            #[cfg(feature = "llvm")]
            let code = target.as_cpu().and_then(|cpu| super::machine::Code::compile(&launches, cpu));
            if let Target::Gpu(gpu) = &target {
                let legal: Vec<Kernel> = launches.iter().map(|launch| launch.legal.clone()).collect();
                let text = ptx::module(&legal, gpu).unwrap_or_else(|error| panic!("{}: {error}", self.name));
                ptx::assembler::assemble_if_all(&self.name, &text, gpu);
            }
            for (i, (batch, len)) in extents.iter().enumerate() {
                let bindings = Bindings::from([(Symbol::new("b"), *batch), (Symbol::new("l"), *len)]);
                let inputs = self.inputs(&bindings, i as u64);
                let place = format!("{} with b={batch}, l={len} on {}", self.name, target.name());
                let truth = self.truth(&inputs, &bindings, &place);
                let start = Memory::new(&plan, &launches, (&self.weights, &inputs, &bindings));
                let run = |stage: &str, run: &dyn Fn(&Launch, &mut Memory<'_>)| {
                    let mut memory = start.clone();
                    launches.iter().for_each(|launch| run(launch, &mut memory));
                    for port in plan.graph.outputs() {
                        let place = format!("{place}, {stage}, {}", port.name);
                        self.compare(&memory.tensor(port.value), &truth[&port.name], &place);
                    }
                };
                if is_new {
                    run("kernel", &|launch, memory| {
                        memory.interpret(&launch.lowered, &launch.lowered.kernel);
                    });
                }
                if !is_slow || i < 2 {
                    run("legal", &|launch, memory| memory.interpret(&launch.lowered, &launch.legal));
                }
                #[cfg(feature = "llvm")]
                if let Some(code) = &code {
                    run("machine code", &|launch, memory| code.run(launch, memory));
                }
            }
        }
    }

    fn inputs(&self, bindings: &Bindings, seed: u64) -> BTreeMap<String, Tensor> {
        let ports = self.graph.inputs().iter().zip(&self.fills).enumerate();
        let tensor = |(i, (port, fill)): (usize, (&ssmc_ir::Port, &Fill))| {
            let ty = self.graph.ty(port.value);
            let dims: Vec<usize> = ty.shape.iter().map(|d| d.eval(bindings).unwrap() as usize).collect();
            (port.name.clone(), fill.tensor(ty.dtype, &dims, 1000 * seed + i as u64 + 1))
        };
        ports.map(tensor).collect()
    }

    fn truth(
        &self,
        inputs: &BTreeMap<String, Tensor>,
        bindings: &Bindings,
        place: &str,
    ) -> BTreeMap<String, Tensor> {
        let mut interpreter = Interpreter::new(&self.graph, &self.weights);
        for (symbol, value) in bindings {
            interpreter = interpreter.bind(symbol.clone(), *value);
        }
        interpreter.run(inputs).unwrap_or_else(|error| panic!("{place}: {error}"))
    }

    /// # Panics
    /// If an element is too far from what is expected.
    fn compare(&self, found: &Tensor, expected: &Tensor, place: &str) {
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{place}");
        if let Some(i) = self.first_fault(found, expected) {
            panic!("{place}[{i}] of {found}, expected {expected}\n{}", self.graph);
        }
    }

    /// Sums of large terms cancel: the absolute bound grows with the root mean square of what is expected.
    fn first_fault(&self, found: &Tensor, expected: &Tensor) -> Option<usize> {
        if let (Data::Int(found), Data::Int(expected)) = (found.data(), expected.data()) {
            return found.iter().zip(expected).position(|(x, y)| x != y);
        }
        let expected = expected.clone().rounded().to_f64();
        let finite: Vec<f64> = expected.iter().copied().filter(|x| x.is_finite()).collect();
        let mean_square = finite.iter().map(|x| x * x).sum::<f64>() / finite.len().max(1) as f64;
        let (rtol, atol) = (self.tolerance.rtol, self.tolerance.atol * mean_square.sqrt().max(1.0));
        found.to_f64().into_iter().zip(expected).position(|(found, expected)| {
            let same = if expected.is_finite() {
                (found - expected).abs() <= atol + rtol * expected.abs()
            } else if self.reassociated {
                !found.is_finite()
            } else {
                found == expected || (found.is_nan() && expected.is_nan())
            };
            !same
        })
    }
}

fn lower_for(graph: &Graph, group: &Group, target: &Target) -> Result<Lowered, LowerError> {
    match target {
        Target::Cpu(cpu) => lower(graph, group, cpu),
        Target::Gpu(gpu) => lower_block(graph, group, gpu),
    }
}

/// What is off by ten tolerances, at any element, must not pass.
#[test]
fn a_wrong_result_is_seen() {
    let mut case = Case::new("one");
    let x = case.input(DType::F32, "l", Fill::Noise(1.0));
    let y = case.b.unary(ssmc_ir::ops::UnaryFn::Tanh, x).unwrap();
    let problem = case.finish(&[y]);
    let expected = Fill::Noise(1.0).tensor(DType::F32, &[5], 1);
    assert_eq!(problem.first_fault(&expected, &expected), None);
    let Tolerance { rtol, atol } = problem.tolerance;
    for (i, right) in expected.to_f64().into_iter().enumerate() {
        for wrong in [right + 10.0 * (atol + rtol * right.abs()), f64::NAN, f64::INFINITY] {
            let mut numbers = expected.to_f64();
            numbers[i] = wrong;
            let found = Tensor::floats(DType::F32, [5], numbers).unwrap();
            assert_eq!(problem.first_fault(&found, &expected), Some(i));
        }
    }
}
