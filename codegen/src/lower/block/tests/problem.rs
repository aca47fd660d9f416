//! A graph of one group, its inputs, and what its kernel makes of them.

use crate::kernel::interp::{Arg as BufferArg, Interpreter as KernelInterpreter};
use crate::lower::{Arg, LibraryProduct, LowerError, Lowered};
use ssmc_ir::ops::Op;
use ssmc_ir::{
    Bindings, DType, Data, Dim, Graph, GraphBuilder, Group, Interpreter, NodeId, Shape, Symbol, Tensor,
    TensorType, ValueId, Weights,
};
use std::collections::BTreeMap;

/// Extents may be symbols; their values come with the inputs.
pub(super) struct Problem {
    builder: GraphBuilder,
    outputs: Vec<ValueId>,
    /// Nodes after the root that are its epilogue.
    epilogue: usize,
    /// Nodes after these that convert further results.
    conversions: usize,
    inputs: Vec<Input>,
    bindings: Bindings,
}

/// An element, from its position and a number in -1..1.
type Fill = fn(usize, f64) -> f64;

struct Input {
    name: String,
    value: ValueId,
    fill: Fill,
}

/// Numbers in -1..1, the same on every run.
fn noise(seed: usize) -> impl FnMut() -> f64 {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

impl Problem {
    pub(super) fn new() -> Problem {
        Problem {
            builder: GraphBuilder::new("problem"),
            outputs: Vec::new(),
            epilogue: 0,
            conversions: 0,
            inputs: Vec::new(),
            bindings: Bindings::new(),
        }
    }

    /// The extent that a symbol has in the run.
    pub(super) fn bind(&mut self, symbol: &str, n: i64) {
        self.bindings.insert(Symbol::new(symbol), n);
    }

    /// An input of noise; extents are numbers or symbols.
    pub(super) fn input(&mut self, name: &str, dtype: DType, shape: &[&str]) -> ValueId {
        self.input_of(name, dtype, shape, |_, noise| noise)
    }

    /// An input with these elements.
    pub(super) fn input_of(&mut self, name: &str, dtype: DType, shape: &[&str], fill: Fill) -> ValueId {
        let dim = |text: &&str| text.parse::<i64>().map(Dim::from).unwrap_or_else(|_| Dim::symbol(text));
        let shape = Shape::from(shape.iter().map(dim).collect::<Vec<_>>());
        let value = self.builder.input(name, TensorType::new(dtype, shape));
        self.inputs.push(Input { name: name.into(), value, fill });
        value
    }

    /// Changes what the elements of an input are.
    pub(super) fn refill(&mut self, name: &str, fill: Fill) {
        self.inputs.iter_mut().find(|input| input.name == name).unwrap().fill = fill;
    }

    pub(super) fn op(&mut self, op: impl Into<Op>, operands: &[Option<ValueId>]) -> Vec<ValueId> {
        self.builder.node(op, operands, Vec::new()).unwrap()
    }

    pub(super) fn builder(&mut self) -> &mut GraphBuilder {
        &mut self.builder
    }

    /// The root, and everything before it, is built; what follows is its epilogue.
    pub(super) fn epilogue(&mut self, nodes: usize) {
        self.epilogue = nodes;
    }

    /// A further result of the root, converted on its way to memory. Nothing but more of these follows.
    pub(super) fn converted(&mut self, value: ValueId, to: DType) -> ValueId {
        self.conversions += 1;
        self.builder.cast(value, to).unwrap()
    }

    pub(super) fn output(&mut self, value: ValueId) {
        self.builder.output(format!("y{}", self.outputs.len()), value);
        self.outputs.push(value);
    }

    fn group(&self) -> Group {
        let members: Vec<NodeId> = self.builder.graph().nodes().map(|(id, _)| id).collect();
        let root = members.len() - 1 - self.epilogue - self.conversions;
        Group {
            root: members[root],
            epilogue: members[root + 1..][..self.epilogue].to_vec(),
            members,
            outputs: self.outputs.clone(),
            region: None,
        }
    }

    pub(super) fn lower(
        &self,
        f: impl FnOnce(&Graph, &Group) -> Result<Lowered, LowerError>,
    ) -> Result<Lowered, LowerError> {
        f(self.builder.graph(), &self.group())
    }

    /// Whether something is so of the graph and its group.
    pub(super) fn holds(&self, f: impl FnOnce(&Graph, &Group) -> bool) -> bool {
        f(self.builder.graph(), &self.group())
    }

    /// Which parameter is bound to an input.
    pub(super) fn arg(&self, lowered: &Lowered, name: &str) -> usize {
        let value = self.builder.graph().input(name).unwrap();
        lowered.args.iter().position(|a| *a == Arg::Value(value)).unwrap()
    }

    fn shape(&self, value: ValueId) -> Vec<usize> {
        shape(self.builder.graph(), value, &self.bindings)
    }

    fn tensors(&self) -> BTreeMap<ValueId, (String, Tensor)> {
        let tensor = |(i, input): (usize, &Input)| {
            let (dtype, shape) = (self.builder.ty(input.value).dtype, self.shape(input.value));
            let n = shape.iter().product();
            let mut noise = noise(i);
            let elems: Vec<f64> = (0..n).map(|at| (input.fill)(at, noise())).collect();
            let data = match dtype.is_float() {
                true => Data::Float(elems),
                false => Data::Int(elems.into_iter().map(|x| x as i64).collect()),
            };
            (input.value, (input.name.clone(), Tensor::new(dtype, shape, data).unwrap().rounded()))
        };
        self.inputs.iter().enumerate().map(tensor).collect()
    }

    /// Runs the kernel; the outputs, or what went wrong.
    pub(super) fn run(&self, lowered: &Lowered) -> Result<Vec<Tensor>, String> {
        self.run_all(std::slice::from_ref(lowered))
    }

    /// Runs kernels that share memory, one after another; the outputs, or what went wrong.
    fn run_all(&self, lowered: &[Lowered]) -> Result<Vec<Tensor>, String> {
        let inputs = self.tensors().into_iter().map(|(value, (_, tensor))| (value, tensor)).collect();
        let mut written = BTreeMap::new();
        let mut shared = Vec::new();
        for lowered in lowered {
            written.extend(launch(self.builder.graph(), lowered, &self.bindings, (&inputs, &mut shared))?);
        }
        Ok(self.outputs.iter().map(|value| written.remove(value).unwrap()).collect())
    }

    /// What a library makes of its description of the product, in f64 and rounded once.
    pub(super) fn by_library(&self, product: &LibraryProduct) -> Tensor {
        let tensors = self.tensors();
        let elems = |value: ValueId| tensors[&value].1.to_f64();
        let (x, w) = (elems(product.x), elems(product.w));
        let [addend, bias] = [product.addend, product.bias].map(|value| value.map(elems));
        let rows = product.rows.eval(&self.bindings).unwrap() as usize;
        let (cols, depth) = (product.cols as usize, product.depth as usize);
        let (pitch, offset) = (product.x_pitch as usize, product.x_offset as usize);
        let mut y = Vec::new();
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let w_at = |k: usize| if product.w_is_deep { k * cols + col } else { col * depth + k };
            let sum: f64 = (0..depth).map(|k| x[offset + row * pitch + k] * w[w_at(k)]).sum();
            let more = |elems: &Option<Vec<f64>>, at: usize| elems.as_ref().map_or(0.0, |elems| elems[at]);
            y.push(sum + more(&addend, row * cols + col) + more(&bias, col));
        }
        let ty = self.builder.ty(product.y);
        Tensor::new(ty.dtype, self.shape(product.y), Data::Float(y)).unwrap().rounded()
    }

    pub(super) fn truth(&self) -> Vec<Tensor> {
        let inputs = self.tensors().into_values().collect();
        let mut outputs = Interpreter::new(self.builder.graph(), &Weights::new()).run(&inputs).unwrap();
        (0..self.outputs.len()).map(|i| outputs.remove(&format!("y{i}")).unwrap()).collect()
    }

    /// Runs the kernel and compares; the fault or the first difference. Its text means the same kernel.
    pub(super) fn check(&self, lowered: &Lowered, tolerance: f64) -> Result<(), String> {
        self.check_all(std::slice::from_ref(lowered), tolerance)
    }

    /// As [`Problem::check`], for kernels that share memory and run one after another.
    pub(super) fn check_all(&self, lowered: &[Lowered], tolerance: f64) -> Result<(), String> {
        for kernel in lowered.iter().map(|lowered| &lowered.kernel) {
            assert_eq!(crate::kernel::text::parse(&kernel.to_string()).as_ref(), Ok(kernel));
        }
        for (i, (found, expected)) in self.run_all(lowered)?.iter().zip(self.truth()).enumerate() {
            for (at, (x, y)) in found.to_f64().into_iter().zip(expected.to_f64()).enumerate() {
                let same = x == y || (x.is_nan() && y.is_nan());
                if !same && (!x.is_finite() || (x - y).abs() > tolerance * (1.0 + y.abs())) {
                    return Err(format!("output {i}, element {at}: {x} is not {y}"));
                }
            }
        }
        Ok(())
    }
}

fn shape(graph: &Graph, value: ValueId, bindings: &Bindings) -> Vec<usize> {
    graph.ty(value).shape.iter().map(|d| d.eval(bindings).unwrap() as usize).collect()
}

/// Runs a kernel on the tensors that it reads; what it writes, or what went wrong. `shared` is the memory that it shares
/// with the launches before and after it.
pub(super) fn launch(
    graph: &Graph,
    lowered: &Lowered,
    bindings: &Bindings,
    (tensors, shared): (&BTreeMap<ValueId, Tensor>, &mut Vec<Vec<u8>>),
) -> Result<BTreeMap<ValueId, Tensor>, String> {
    let eval = |d: &Dim| d.eval(bindings).unwrap();
    let mut values = Vec::new();
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    // What is to be written starts as NaN.
    shared.extend(lowered.scratch.iter().skip(shared.len()).map(|n| vec![0xff; eval(n) as usize]));
    for (arg, param) in lowered.args.iter().zip(&lowered.kernel.params) {
        let value = match arg {
            Arg::Value(value) => *value,
            Arg::Scratch(i) => {
                buffers.push(std::mem::take(&mut shared[*i]));
                continue;
            }
            Arg::Packed(..) | Arg::Slot(..) => panic!("block kernels read plain tensors"),
        };
        let n: usize = shape(graph, value, bindings).iter().product();
        let written = || vec![0xff; n * param.elem.size()];
        values.push((value, buffers.len(), param.access.writes()));
        buffers.push(if param.access.writes() { written() } else { tensors[&value].to_bytes() });
    }
    let dims: Vec<i64> = lowered.dims.iter().map(eval).collect();
    let args: Vec<BufferArg> = (0..buffers.len()).map(BufferArg::start).collect();
    let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    KernelInterpreter::new(&lowered.kernel)
        .and_then(|k| k.run(0..eval(&lowered.grid), &dims, &args, &mut slices))
        .map_err(|e| e.to_string())?;
    let tensor = |(value, at, is_written): (ValueId, usize, bool)| {
        let shape = shape(graph, value, bindings);
        is_written.then(|| (value, Tensor::from_bytes(graph.ty(value).dtype, shape, &buffers[at]).unwrap()))
    };
    let written = values.into_iter().filter_map(tensor).collect();
    for (i, arg) in lowered.args.iter().enumerate() {
        if let Arg::Scratch(at) = arg {
            shared[*at] = std::mem::take(&mut buffers[i]);
        }
    }
    Ok(written)
}
