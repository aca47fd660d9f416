//! Groups of graph nodes -> kernels.
//!
//! The root op of a group decides the loops; everything else that the group computes is emitted where an element of
//! it is asked for ([`access`]). Grids and arguments do not depend on the vector width, so that one launch list
//! serves all levels of a CPU family.

mod access;
pub(crate) mod block;
mod complex_scan;
mod conv;
mod conv1d;
mod dft;
mod elementwise;
mod index;
mod linear_attention;
mod long_conv;
mod matmul;
mod norm;
mod reduce;
mod region;
mod scalar;
mod scan;
mod scatter;
mod selective_scan;
mod sink;
mod slots;
mod ssd;
mod states;
mod sums;
mod wkv;

pub use block::{
    Chain, LibraryProduct, chains, lower_alternatives, lower_block, lower_chain, lower_unchained,
};

use crate::assemble::Packing;
use crate::kernel::{Elem, Kernel, KernelBuilder, Reg};
use crate::target::CpuTarget;
use access::Cx;
use sink::Sink;
use ssmc_ir::ops::Op;
use ssmc_ir::{DType, Dim, Graph, Group, Node, ValueId};
use std::collections::BTreeSet;

/// What a kernel parameter is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arg {
    /// A tensor in memory, row-major.
    Value(ValueId),
    /// A weight in a packing of its own.
    Packed(ValueId, Packing),
    /// Memory that the launches of a group share and nobody else sees: the entry of [`Lowered::scratch`] of this index.
    Scratch(usize),
    /// A slot of the arena, for values of the body of a loop of this type.
    Slot(usize, DType),
}

/// A kernel and how to launch it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Lowered {
    pub kernel: Kernel,
    /// One per parameter.
    pub args: Vec<Arg>,
    /// One per dim of the kernel.
    pub dims: Vec<Dim>,
    pub grid: Dim,
    /// Multiplications, additions and function evaluations, each counted as one.
    pub flops: Dim,
    /// Bytes of the memory that the launches of the group share.
    pub scratch: Vec<Dim>,
    /// An operand and a result of the root that may lie in the same memory: every block reads an element of the operand
    /// before it writes that of the result, and none that another block writes.
    pub in_place: Option<(ValueId, ValueId)>,
    /// What a library needs to do the launch instead, if it can.
    pub product: Option<LibraryProduct>,
}

/// Why a group has no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum LowerError {
    #[error("{op}: operand is missing")]
    MissingOperand { op: &'static str },
    #[error("{op} is not computed element by element")]
    NotElementwise { op: &'static str },
    #[error("{op}: element type {found} has no kernel")]
    ElementType { op: &'static str, found: &'static str },
    #[error("{op}: {reason}")]
    Unsupported { op: &'static str, reason: String },
}

/// The element type in kernels.
fn elem_of(dtype: DType) -> Result<Elem, LowerError> {
    Ok(match dtype {
        DType::F64 => Elem::F64,
        DType::F32 => Elem::F32,
        DType::F16 => Elem::F16,
        DType::BF16 => Elem::Bf16,
        DType::I64 => Elem::I64,
        DType::I32 => Elem::I32,
        DType::I16 => Elem::I16,
        DType::I8 => Elem::I8,
        DType::U64 => Elem::U64,
        DType::U32 => Elem::U32,
        DType::U16 => Elem::U16,
        DType::U8 => Elem::U8,
        DType::Bool => Elem::Bool,
        DType::F8E4M3
        | DType::F8E5M2
        | DType::C64
        | DType::C128
        | DType::I4
        | DType::I2
        | DType::U4
        | DType::U2 => {
            return Err(LowerError::ElementType { op: "tensor", found: dtype.name() });
        }
    })
}

/// The type in which kernels compute with elements: f32 for the narrower floats.
fn accumulator(elem: Elem) -> Elem {
    if elem.is_half() { Elem::F32 } else { elem }
}

/// x * y + z; for floats rounded once.
fn multiply_add(b: &mut KernelBuilder, x: Reg, y: Reg, z: Reg) -> Reg {
    if b.ty(z).elem().is_float() {
        return b.fma(x, y, z);
    }
    let product = b.mul(x, y);
    b.add(product, z)
}

/// A lowering in progress: the root, its loops and where results go.
struct Lowering<'a> {
    graph: &'a Graph,
    node: &'a Node,
    group: &'a Group,
    cx: Cx<'a>,
    b: KernelBuilder,
    sink: Sink<'a>,
    /// See [`Lowered::in_place`].
    in_place: Option<(ValueId, ValueId)>,
}

impl<'a> Lowering<'a> {
    /// An empty kernel for a group, with this many threads per block and lanes per vector.
    fn new(graph: &'a Graph, group: &'a Group, threads: u32, lanes: u16) -> Result<Self, LowerError> {
        let node = graph.node(group.root);
        let Some(result) = node.results.first() else {
            return Err(LowerError::Unsupported { op: node.op.name(), reason: "it has no result".into() });
        };
        let name = kernel_name(node, elem_of(graph.ty(*result).dtype)?);
        Ok(Self::inside(graph, group, KernelBuilder::new(&name, [threads, 1, 1]), lanes))
    }

    /// The loops of a group as a part of the kernel that is being built.
    fn inside(graph: &'a Graph, group: &'a Group, b: KernelBuilder, lanes: u16) -> Self {
        let node = graph.node(group.root);
        let is_elementwise = node.op.is_elementwise();
        let inside: BTreeSet<ValueId> = group
            .members
            .iter()
            .filter(|id| **id != group.root || is_elementwise)
            .flat_map(|id| graph.node(*id).results.first().copied())
            .collect();
        let (cx, sink) = (Cx::new(graph, inside, lanes), Sink::new(graph, group));
        Self { graph, node, group, cx, b, sink, in_place: None }
    }

    /// The kernel with its launch.
    fn finish(self, launch: Launch) -> Lowered {
        let (args, dims, scratch) = self.cx.into_args();
        let Launch { grid, flops } = launch;
        let in_place = self.in_place;
        Lowered { kernel: self.b.finish(), args, dims, grid, flops, scratch, in_place, product: None }
    }

    fn operand(&self, i: usize) -> Result<ValueId, LowerError> {
        self.optional(i).ok_or(LowerError::MissingOperand { op: self.node.op.name() })
    }

    fn optional(&self, i: usize) -> Option<ValueId> {
        self.node.operands.get(i).copied().flatten()
    }

    fn shape(&self, value: ValueId) -> &'a [Dim] {
        &self.graph.ty(value).shape
    }

    fn unsupported<T>(&self, reason: impl Into<String>) -> Result<T, LowerError> {
        Err(LowerError::Unsupported { op: self.node.op.name(), reason: reason.into() })
    }

    /// An extent that must be known when compiling.
    fn constant(&self, what: &str, dim: &Dim) -> Result<i64, LowerError> {
        match dim.as_const() {
            Some(n) => Ok(n),
            None => self.unsupported(format!("{what} must be a constant, found {dim}")),
        }
    }
}

/// Grid and arithmetic of a kernel.
struct Launch {
    grid: Dim,
    flops: Dim,
}

/// The kernel of one group.
///
/// # Errors
/// The root op, an element type or a symbolic extent has no kernel.
pub fn lower(graph: &Graph, group: &Group, target: &CpuTarget) -> Result<Lowered, LowerError> {
    let node = graph.node(group.root);
    // Vectors are as wide as those of f32, the element type of activations, whatever a group computes besides.
    let lanes = (target.vector_bits / 32).max(1) as u16;
    let mut lowering = Lowering::new(graph, group, 1, lanes)?;
    let launch = match &node.op {
        Op::Contract(op) if matmul::applies(graph, node) => matmul::lower(&mut lowering, op, target)?,
        Op::Ssd(op) => ssd::lower(&mut lowering, op)?,
        _ => root(&mut lowering)?,
    };
    Ok(lowering.finish(launch))
}

/// The loops of a root op, as they stand for every way to share out the work.
fn root(l: &mut Lowering<'_>) -> Result<Launch, LowerError> {
    match &l.node.op {
        Op::Contract(op) if !op.spec.summed().is_empty() => reduce::contract(l, op),
        Op::Reduce(op) => reduce::reduce(l, op),
        Op::ArgMax(op) => reduce::argmax(l, op),
        Op::TopK(op) => scatter::top_k(l, op),
        Op::Scatter(op) => scatter::scatter(l, op),
        Op::CumSum(op) => scan::cumsum(l, op),
        Op::Scan(op) => scan::scan(l, op),
        Op::DiscretizedScan(op) => scan::discretized(l, op),
        Op::SelectiveScan(op) => selective_scan::lower(l, op),
        Op::Ssd(op) => ssd::lower_recurrent(l, op),
        Op::LinearAttention(op) => linear_attention::lower(l, op),
        Op::Wkv(op) => wkv::lower(l, op),
        Op::RmsNorm(op) => norm::rms_norm(l, op),
        Op::LayerNorm(op) => norm::layer_norm(l, op),
        Op::GatedRmsNorm(op) => norm::gated_rms_norm(l, op),
        Op::CausalConv1d(op) => conv1d::lower(l, op),
        Op::LongConv(op) => long_conv::lower(l, op),
        Op::Dft(op) => dft::lower(l, op),
        Op::ComplexScan(op) => complex_scan::lower(l, op),
        Op::Conv(op) => conv::lower(l, op),
        Op::Loop(op) => region::lower(l, op),
        Op::If(_) | Op::WeightRef(_) => l.unsupported("it has no kernel"),
        Op::Constant(_)
        | Op::DimValue(_)
        | Op::Iota(_)
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Compare(_)
        | Op::Select(_)
        | Op::Cast(_)
        | Op::Dequantize(_)
        | Op::Bitcast(_)
        | Op::Broadcast(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Reverse(_)
        | Op::Concat(_)
        | Op::Pad(_)
        | Op::Gather(_)
        | Op::Contract(_) => elementwise::lower(l),
    }
}

/// `ssmc_<op>_<dtype>`; the artefact writer tells kernels of one name apart by their text.
fn kernel_name(node: &Node, elem: Elem) -> String {
    let op = node.op.name();
    format!("ssmc_{}_{}", op.rsplit('.').next().unwrap_or(op), elem.name())
}

#[cfg(test)]
mod tests;
