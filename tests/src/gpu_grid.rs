//! A grid of problems for every kernel of GPUs: graphs, and the sizes with which every one of their kernels runs.
//!
//! `ssmc-gpu-bench --grid` runs them on a device and compares with the reference interpreter; a test asserts on any machine
//! that they have kernels and PTX for every architecture and that no kernel is left out.

mod cases;

use cases::{TEMPLATES, Template};
use ssmc_artifact::ExprError;
use ssmc_codegen::assemble::{AssembleError, Kernels, ProgramInput};
use ssmc_codegen::target::{GpuArch, GpuTarget, Target};
use ssmc_ir::interp::Precision;
use ssmc_ir::{
    Bindings, DType, Data, Graph, InterpError, Interpreter, Symbol, Tensor, TensorType, Weights, parse,
};
use ssmc_passes::partition::partition_with_copies;
use std::collections::{BTreeMap, BTreeSet};

/// Why the grid cannot be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum GridError {
    #[error("case {case}: {fault}")]
    Graph { case: &'static str, fault: String },
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Interpreter(#[from] InterpError),
    #[error(transparent)]
    Size(#[from] ExprError),
}

/// One graph of the grid with an element type.
#[derive(Debug)]
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// The graph over the symbols `batch` and `len`, or `rows` for their product.
    pub graph: Graph,
    /// Batches and lengths to run it with.
    pub sizes: Vec<[usize; 2]>,
    /// Error relative to 1 and to the number itself that results may have.
    pub tolerance: f64,
    /// How the reference computes.
    precision: Precision,
}

/// Element types of the grid.
pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 4e-3,
        DType::BF16 => 3.2e-2,
        _ => 2e-5,
    }
}

/// The cases with elements of this type whose names contain `filter`.
///
/// # Errors
/// A graph that is not valid.
pub fn cases(dtype: DType, filter: &str) -> Result<Vec<Case>, GridError> {
    let case = |template: &Template| {
        let name = template.name;
        let name_of = |after: &str| format!("{}{after}", dtype.name());
        let text = template.text.replace("T[", &name_of("[")).replace("T}", &name_of("}"));
        let graph =
            parse(&text).map_err(|faults| GridError::Graph { case: name, fault: format!("{faults:?}") })?;
        let (sizes, tolerance) = (template.sizes.to_vec(), template.slack * tolerance(dtype));
        Ok(Case { name, graph, sizes, tolerance, precision: template.precision })
    };
    TEMPLATES.iter().filter(|template| template.name.contains(filter)).map(case).collect()
}

/// The kernels of all cases, each of which is a program of its name, for all architectures.
///
/// # Errors
/// A case without kernels.
pub fn kernels(cases: &[Case]) -> Result<Kernels, GridError> {
    let fault = |case: &Case, fault: String| GridError::Graph { case: case.name, fault };
    let plans = cases
        .iter()
        .map(|case| partition_with_copies(&case.graph).map_err(|error| fault(case, error.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    let weights = Weights::new();
    let program =
        |(case, plan)| ProgramInput { name: case, plan, gpu_plan: None, weights: &weights, states: &[] };
    let programs: Vec<_> = cases.iter().map(|case| case.name).zip(&plans).map(program).collect();
    let targets = GpuArch::ALL.map(|arch| Target::Gpu(GpuTarget::of_arch(arch)));
    Ok(Kernels::lower(&programs, &targets)?)
}

/// Kernels of an architecture that no launch of these cases runs, by name, with a case that has them.
///
/// # Errors
/// A grid that cannot be computed.
pub fn never_run(kernels: &Kernels, cases: &[Case], arch: GpuArch) -> Result<Vec<String>, GridError> {
    let device = Target::Gpu(GpuTarget::of_arch(arch)).device();
    let symbols = kernels.symbols.names();
    let mut left: BTreeSet<usize> = BTreeSet::new();
    let (mut run, mut places) = (BTreeSet::new(), BTreeMap::new());
    for program in kernels.programs.iter().filter(|program| program.device == device) {
        let sizes = cases.iter().filter(|case| case.name == program.name).flat_map(|case| &case.sizes);
        let values: Vec<Vec<i64>> =
            sizes.map(|size| symbols.iter().map(|name| extent(name, *size) as i64).collect()).collect();
        for entry in &program.launches {
            left.insert(entry.kernel);
            let Some(grid) = &entry.launch.grid else { continue };
            let place = || format!("{} of {}", kernels.kernels[entry.kernel].name, program.name);
            places.entry(entry.kernel).or_insert_with(place);
            for values in &values {
                if grid.eval(values)? > 0 {
                    run.insert(entry.kernel);
                }
            }
        }
    }
    Ok(left.difference(&run).map(|kernel| places[kernel].clone()).collect())
}

/// The symbols of the graphs.
pub const SYMBOLS: [&str; 3] = ["batch", "len", "rows"];

/// The value of a symbol for a batch and length.
pub fn extent(symbol: &str, [batch, len]: [usize; 2]) -> usize {
    match symbol {
        "batch" => batch,
        "len" => len,
        _ => batch * len,
    }
}

impl Case {
    /// The greatest value of a symbol; `None` if the graph has none of it.
    pub fn most(&self, symbol: &str) -> Option<usize> {
        let mut all = BTreeSet::new();
        for port in self.graph.inputs() {
            self.graph.ty(port.value).shape.iter().for_each(|dim| dim.collect_symbols(&mut all));
        }
        let is_there = all.iter().any(|known: &Symbol| known.name() == symbol);
        self.sizes.iter().filter(|_| is_there).map(|size| extent(symbol, *size)).max()
    }

    /// Random inputs of these sizes, the same on every call.
    ///
    /// # Errors
    /// An extent that has no number.
    pub fn inputs(&self, size: [usize; 2]) -> Result<BTreeMap<String, Tensor>, GridError> {
        let bindings: Bindings =
            SYMBOLS.map(|name| (Symbol::new(name), extent(name, size) as i64)).into_iter().collect();
        let fault = |fault: String| GridError::Graph { case: self.name, fault };
        let mut tensors = BTreeMap::new();
        for (i, port) in self.graph.inputs().iter().enumerate() {
            let TensorType { dtype, shape } = self.graph.ty(port.value);
            let shape = shape
                .iter()
                .map(|dim| dim.eval(&bindings).map(|n| n as usize))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| fault(error.to_string()))?;
            let n = shape.iter().product();
            let mut noise = noise(i as u64 + 1);
            let data = match dtype.is_float() {
                true => {
                    let (low, high) = range(&port.name);
                    Data::Float((0..n).map(|_| low + (high - low) * noise()).collect())
                }
                // Sequences that are packed, or tokens.
                false if port.name == "seq" => {
                    Data::Int((0..n).map(|at| (at / 9 + at / 31) as i64).collect())
                }
                false => Data::Int((0..n).map(|_| (noise() * 50.0) as i64).collect()),
            };
            let tensor = Tensor::new(*dtype, shape, data).map_err(|error| fault(error.to_string()))?;
            tensors.insert(port.name.clone(), tensor.rounded());
        }
        Ok(tensors)
    }

    /// What the reference interpreter makes of inputs.
    ///
    /// # Errors
    /// The interpreter refuses them.
    pub fn truth(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, GridError> {
        Ok(Interpreter::new(&self.graph, &Weights::new()).precision(self.precision).run(inputs)?)
    }

    /// The first element that is not what it should be, if there is one.
    pub fn difference(&self, found: &Tensor, expected: &Tensor) -> Option<String> {
        if found.shape() != expected.shape() {
            return Some(format!("shape {:?}, expected {:?}", found.shape(), expected.shape()));
        }
        let (found, expected) = (found.to_f64(), expected.to_f64());
        found.into_iter().zip(expected).enumerate().find_map(|(at, (x, y))| {
            let is_same = x == y || x.is_nan() && y.is_nan();
            let is_near = x.is_finite() && (x - y).abs() <= self.tolerance * (1.0 + y.abs());
            (!is_same && !is_near).then(|| format!("element {at}: {x}, expected {y}"))
        })
    }
}

/// Where the elements of an input are drawn from.
fn range(name: &str) -> (f64, f64) {
    match name {
        "a" => (-4.0, -0.1),
        "bias" => (-3.0, 1.0),
        "decay" => (0.1, 0.95),
        _ => (-1.0, 1.0),
    }
}

/// Numbers in 0..1.
pub fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}
