//! A graph of one group, its inputs, and what its kernel makes of them.

use crate::kernel::interp::{Arg as BufferArg, Interpreter as KernelInterpreter};
use crate::lower::{Arg, LowerError, Lowered};
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
    inputs: Vec<(String, ValueId, fn(usize, f64) -> f64)>,
    bindings: Bindings,
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

    /// An input whose elements `f` makes of their position and noise.
    pub(super) fn input_of(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[&str],
        f: fn(usize, f64) -> f64,
    ) -> ValueId {
        let dim = |text: &&str| text.parse::<i64>().map(Dim::from).unwrap_or_else(|_| Dim::symbol(text));
        let shape = Shape::from(shape.iter().map(dim).collect::<Vec<_>>());
        let value = self.builder.input(name, TensorType::new(dtype, shape));
        self.inputs.push((name.into(), value, f));
        value
    }

    /// Changes what the elements of an input are.
    pub(super) fn refill(&mut self, name: &str, f: fn(usize, f64) -> f64) {
        let input = self.inputs.iter_mut().find(|(n, ..)| n == name);
        input.unwrap_or_else(|| panic!("there is no input {name}")).2 = f;
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

    pub(super) fn output(&mut self, value: ValueId) {
        self.builder.output(format!("y{}", self.outputs.len()), value);
        self.outputs.push(value);
    }

    fn group(&self) -> Group {
        let members: Vec<NodeId> = self.builder.graph().nodes().map(|(id, _)| id).collect();
        let root = members.len() - 1 - self.epilogue;
        Group {
            root: members[root],
            epilogue: members[root + 1..].to_vec(),
            members,
            outputs: self.outputs.clone(),
        }
    }

    pub(super) fn lower(
        &self,
        f: impl FnOnce(&Graph, &Group) -> Result<Lowered, LowerError>,
    ) -> Result<Lowered, LowerError> {
        f(self.builder.graph(), &self.group())
    }

    /// Which parameter is bound to an input.
    pub(super) fn arg(&self, lowered: &Lowered, name: &str) -> usize {
        let value = self.builder.graph().input(name).unwrap();
        lowered.args.iter().position(|a| *a == Arg::Value(value)).unwrap()
    }

    fn eval(&self, dim: &Dim) -> i64 {
        dim.eval(&self.bindings).unwrap()
    }

    fn shape(&self, value: ValueId) -> Vec<usize> {
        self.builder.ty(value).shape.iter().map(|d| self.eval(d) as usize).collect()
    }

    fn tensors(&self) -> BTreeMap<ValueId, (String, Tensor)> {
        let tensor = |(i, (name, value, f)): (usize, &(String, ValueId, fn(usize, f64) -> f64))| {
            let (dtype, shape) = (self.builder.ty(*value).dtype, self.shape(*value));
            let n = shape.iter().product();
            let mut noise = noise(i);
            let elems: Vec<f64> = (0..n).map(|at| f(at, noise())).collect();
            let data = match dtype.is_float() {
                true => Data::Float(elems),
                false => Data::Int(elems.into_iter().map(|x| x as i64).collect()),
            };
            (*value, (name.clone(), Tensor::new(dtype, shape, data).unwrap().rounded()))
        };
        self.inputs.iter().enumerate().map(tensor).collect()
    }

    /// Runs the kernel; the outputs, or what went wrong.
    pub(super) fn run(&self, lowered: &Lowered) -> Result<Vec<Tensor>, String> {
        let tensors = self.tensors();
        let mut buffers: Vec<Vec<u8>> = Vec::new();
        let mut written = BTreeMap::new();
        for (arg, param) in lowered.args.iter().zip(&lowered.kernel.params) {
            let Arg::Value(value) = arg else { panic!("block kernels read plain tensors") };
            if param.access.writes() {
                written.insert(*value, buffers.len());
                let n: usize = self.shape(*value).iter().product();
                buffers.push(vec![0xff; n * param.elem.size()]);
            } else {
                buffers.push(tensors[value].1.to_bytes());
            }
        }
        let dims: Vec<i64> = lowered.dims.iter().map(|d| self.eval(d)).collect();
        let args: Vec<BufferArg> = (0..buffers.len()).map(BufferArg::start).collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        KernelInterpreter::new(&lowered.kernel)
            .and_then(|k| k.run(0..self.eval(&lowered.grid), &dims, &args, &mut slices))
            .map_err(|e| e.to_string())?;
        let result = |value: &ValueId| {
            let dtype = self.builder.ty(*value).dtype;
            Tensor::from_bytes(dtype, self.shape(*value), &buffers[written[value]]).unwrap()
        };
        Ok(self.outputs.iter().map(result).collect())
    }

    fn truth(&self) -> Vec<Tensor> {
        let inputs = self.tensors().into_values().collect();
        let mut outputs =
            Interpreter::new(self.builder.graph(), &Weights::new()).run(&inputs).unwrap();
        (0..self.outputs.len()).map(|i| outputs.remove(&format!("y{i}")).unwrap()).collect()
    }

    /// Runs the kernel and compares; the fault or the first difference.
    pub(super) fn check(&self, lowered: &Lowered, tolerance: f64) -> Result<(), String> {
        for (i, (found, expected)) in self.run(lowered)?.iter().zip(self.truth()).enumerate() {
            for (at, (x, y)) in found.to_f64().into_iter().zip(expected.to_f64()).enumerate() {
                let same = x == y || (x.is_nan() && y.is_nan());
                if !same && !((x - y).abs() <= tolerance * (1.0 + y.abs())) {
                    return Err(format!("output {i}, element {at}: {x} is not {y}"));
                }
            }
        }
        Ok(())
    }
}
