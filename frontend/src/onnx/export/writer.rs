//! The walk over the graph: which form each op takes.

use super::super::proto::tensor_shape_proto::{Dimension, dimension};
use super::super::proto::type_proto::{Tensor as TensorTypeProto, Value};
use super::super::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};
use super::body::{Body, Name, literal};
use super::{ExportError, sink, type_number, views};
use ssmc_ir::ops::{Broadcast, Op};
use ssmc_ir::{Dim, Graph, Node, TensorType, ValueId, Weights};
use std::collections::{BTreeMap, BTreeSet};

/// The domain of the functions.
pub(super) const DOMAIN: &str = "ssmc";

pub(super) struct Writer<'a> {
    pub(super) graph: &'a Graph,
    pub(super) weights: &'a Weights,
    pub(super) body: Body,
    pub(super) dims: BTreeMap<Dim, Name>,
    pub(super) functions: Vec<FunctionProto>,
    pub(super) known_functions: BTreeMap<String, usize>,
    names: BTreeMap<ValueId, Name>,
    /// Broadcasts that no node needed in full so far.
    spread: BTreeMap<ValueId, Broadcast>,
    /// Weights in other layouts.
    variants: BTreeMap<(ValueId, Vec<usize>, Vec<i64>), Name>,
    taken: BTreeSet<Name>,
    /// Values that a node or an output uses.
    used: BTreeSet<ValueId>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(graph: &'a Graph, weights: &'a Weights, opset: i64) -> Self {
        let ports = graph.inputs().iter().chain(graph.outputs());
        let mut body = Body::new(opset, "ssmc.");
        for port in graph.inputs() {
            body.shapes.extend(graph.ty(port.value).shape.as_const().map(|dims| (port.name.clone(), dims)));
        }
        Self {
            graph,
            weights,
            body,
            dims: BTreeMap::new(),
            functions: Vec::new(),
            known_functions: BTreeMap::new(),
            names: graph.inputs().iter().map(|p| (p.value, p.name.clone())).collect(),
            spread: BTreeMap::new(),
            variants: BTreeMap::new(),
            taken: ports.map(|p| p.name.clone()).collect(),
            used: graph
                .nodes()
                .flat_map(|(_, node)| node.operands.iter().flatten().copied())
                .chain(graph.outputs().iter().map(|p| p.value))
                .collect(),
        }
    }

    pub(super) fn model(mut self, doc: &str) -> Result<ModelProto, ExportError> {
        let wanted: BTreeMap<ValueId, &str> =
            self.graph.outputs().iter().rev().map(|p| (p.value, p.name.as_str())).collect();
        for (_, node) in self.graph.nodes() {
            self.body.doc = self.graph.locs().describe(node.loc);
            let place = self.body.doc.clone();
            let results =
                self.node(node).map_err(|reason| ExportError::Node { place, op: node.op.name(), reason })?;
            // The last result first: it is the one that the last node computes.
            for (value, name) in node.results.iter().zip(results).rev() {
                match wanted.get(value).filter(|_| !self.spread.contains_key(value)) {
                    Some(wanted) if !self.is_constant(&name) && !self.is_shared(&name) => {
                        self.body.rename(&name, wanted);
                        self.names.insert(*value, (*wanted).to_owned());
                    }
                    _ => {
                        self.names.insert(*value, name);
                    }
                }
                if let Some(dims) = self.ty(*value).shape.as_const()
                    && !self.spread.contains_key(value)
                {
                    self.body.shapes.insert(self.names[value].clone(), dims);
                }
            }
        }
        self.body.doc.clear();
        for port in self.graph.outputs() {
            let unnamed = |reason| ExportError::Node { place: port.name.clone(), op: "output", reason };
            let name = self.full(port.value).map_err(unnamed)?;
            if name != port.name {
                let copy = self.body.op("Identity", &[&name]);
                self.body.rename(&copy, &port.name);
            }
        }
        Ok(self.assemble(doc))
    }

    /// Whether the name stands for another value too.
    fn is_shared(&self, name: &str) -> bool {
        self.names.values().chain(self.dims.values()).any(|n| n == name)
    }

    fn is_constant(&self, name: &str) -> bool {
        self.body.constants.iter().any(|t| t.name() == name)
    }

    fn assemble(mut self, doc: &str) -> ModelProto {
        let info = |port: &ssmc_ir::Port| value_info(&port.name, self.graph.ty(port.value));
        let opset = self.body.opset;
        let version = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        let mut opset_import = vec![version("", opset)];
        if !self.functions.is_empty() {
            opset_import.push(version(DOMAIN, 1));
        }
        let kept = self.graph.outputs().iter().map(|p| p.name.clone()).collect();
        let nodes = std::mem::take(&mut self.body.nodes);
        self.body.nodes = sink::sink(nodes, &mut self.body.constants, &self.body.shapes, &kept);
        views::join(&mut self.body.nodes, &mut self.body.constants, &kept);
        drop_unread(&mut self.body.nodes, &kept);
        let used: BTreeSet<&str> = views::read(&self.body.nodes).into_iter().collect();
        let initializer = self.body.constants.iter().filter(|t| used.contains(t.name())).cloned().collect();
        let graph = GraphProto {
            name: Some(self.graph.name().to_owned()),
            input: self.graph.inputs().iter().map(info).collect(),
            output: self.graph.outputs().iter().map(info).collect(),
            initializer,
            node: self.body.nodes,
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: Some(ir_version(opset)),
            producer_name: Some("ssmc".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            doc_string: Some(doc.to_owned()),
            opset_import,
            graph: Some(graph),
            functions: self.functions,
            ..ModelProto::default()
        }
    }

    fn node(&mut self, node: &Node) -> Result<Vec<Name>, String> {
        let one = |name: Result<Name, String>| name.map(|name| vec![name]);
        match &node.op {
            Op::Constant(op) => {
                let dims = op.shape.as_const().ok_or("a constant with a symbol")?;
                Ok(vec![self.body.constant(op.dtype, &dims, op.data.clone())])
            }
            Op::WeightRef(op) => one(self.weight(&op.name, node.results[0])),
            Op::DimValue(op) => {
                let dim = self.dim(&op.value)?;
                Ok(vec![self.body.squeeze(&dim, &[0])])
            }
            Op::Iota(op) => one(self.iota(op)),
            Op::Unary(op) => one(self.unary(node, op)),
            Op::Binary(op) => one(self.binary(node, op)),
            Op::Compare(op) => one(self.compare(node, op)),
            Op::Select(_) => one(self.select(node)),
            Op::Cast(op) => one(self.cast(node, op)),
            Op::Dequantize(op) => one(self.dequantize(node, op)),
            Op::Broadcast(op) => {
                // Operators repeat axes of extent 1 by themselves; what cannot rely on that asks for the full value.
                self.spread.insert(node.results[0], op.clone());
                one(self.operand(node, 0))
            }
            Op::Reshape(op) => one(self.reshape(node, op)),
            Op::Transpose(op) => {
                let x = self.operand(node, 0)?;
                Ok(vec![self.body.transpose(&x, &op.perm)])
            }
            Op::Slice(op) => one(self.slice(node, op)),
            Op::Reverse(op) => {
                let x = self.operand(node, 0)?;
                Ok(vec![self.body.reversed(&x, op.axis as i64)])
            }
            Op::Concat(op) => one(self.concat(node, op)),
            Op::Pad(op) => one(self.pad(node, op)),
            Op::Gather(op) => one(self.gather(node, op)),
            Op::Reduce(op) => one(self.reduce(node, op)),
            Op::CumSum(op) => one(self.cumsum(node, op)),
            Op::ArgMax(op) => one(self.argmax(node, op)),
            Op::Contract(op) => one(self.contract(node, op)),
            Op::Conv(op) => one(self.conv(node, op)),
            Op::CausalConv1d(op) => self.causal_conv(node, op),
            Op::LongConv(op) => self.long_conv(node, op),
            Op::RmsNorm(op) => one(self.rms_norm(node, op)),
            Op::LayerNorm(op) => one(self.layer_norm(node, op)),
            Op::GatedRmsNorm(op) => one(self.gated_rms_norm(node, op)),
            Op::Scan(op) => self.scan(node, op),
            Op::ComplexScan(op) => self.complex_scan(node, op),
            Op::SelectiveScan(op) => self.selective_scan(node, op),
            Op::Ssd(op) => self.ssd(node, op),
            Op::DiscretizedScan(op) => self.discretized_scan(node, op),
            Op::LinearAttention(op) => self.linear_attention(node, op),
            Op::Wkv(op) => self.wkv(node, op),
            Op::Scatter(op) => one(self.scatter(node, op)),
            Op::TopK(op) => self.top_k(node, op),
            _ => Err("it has no form in standard operators yet".to_owned()),
        }
    }

    pub(super) fn ty(&self, value: ValueId) -> &'a TensorType {
        self.graph.ty(value)
    }

    /// Whether anything needs the value.
    pub(super) fn is_used(&self, value: ValueId) -> bool {
        self.used.contains(&value)
    }

    /// The name of a required operand with its full shape.
    pub(super) fn operand(&mut self, node: &Node, i: usize) -> Result<Name, String> {
        let value = node.operands.get(i).copied().flatten().ok_or("an operand is missing")?;
        self.full(value)
    }

    /// The name of an operand that may be absent.
    pub(super) fn optional(&mut self, node: &Node, i: usize) -> Result<Option<Name>, String> {
        node.operands.get(i).copied().flatten().map(|v| self.full(v)).transpose()
    }

    fn name(&self, value: ValueId) -> Result<Name, String> {
        self.names.get(&value).cloned().ok_or_else(|| format!("{value} has no name"))
    }

    /// The value with its full shape.
    pub(super) fn full(&mut self, value: ValueId) -> Result<Name, String> {
        let Some(op) = self.spread.get(&value).cloned() else { return self.name(value) };
        let x = self.unit_axes(value, &op)?;
        let shape = self.shape_tensor(&op.shape)?;
        let name = self.body.op("Expand", &[&x, &shape]);
        self.spread.remove(&value);
        self.names.insert(value, name.clone());
        Ok(name)
    }

    /// The value with extents of 1 where elements repeat, and on which axes they do not.
    pub(super) fn broadcastable(&mut self, value: ValueId) -> Result<(Name, Vec<bool>), String> {
        let Some(op) = self.spread.get(&value).cloned() else {
            return Ok((self.name(value)?, vec![true; self.ty(value).rank()]));
        };
        let x = self.unit_axes(value, &op)?;
        let from = self.spread_from(value)?;
        let full = |axis: usize| {
            let at = op.axes.iter().position(|a| *a == axis);
            at.is_some_and(|i| from.shape[i] == op.shape[axis])
        };
        Ok((x, (0..op.shape.rank()).map(full).collect()))
    }

    fn spread_from(&self, value: ValueId) -> Result<&'a TensorType, String> {
        let node = self.graph.def_node(value).ok_or("a broadcast without a node")?;
        Ok(self.ty(node.operands[0].ok_or("an operand is missing")?))
    }

    /// The operand of a broadcast with axes of extent 1 put in, as far as those in front are not enough.
    fn unit_axes(&mut self, value: ValueId, op: &Broadcast) -> Result<Name, String> {
        let x = self.name(value)?;
        let Some(first) = op.axes.first().copied() else { return Ok(x) };
        let missing: Vec<i64> = (first..op.shape.rank())
            .filter(|axis| !op.axes.contains(axis))
            .map(|a| (a - first) as i64)
            .collect();
        Ok(self.body.unsqueeze(&x, &missing))
    }

    /// A weight as an initializer of its own name.
    fn weight(&mut self, name: &str, value: ValueId) -> Result<Name, String> {
        self.variant(name, value, &[])
    }

    /// A weight with its axes permuted.
    pub(super) fn permuted(&mut self, value: ValueId, perm: &[usize]) -> Result<Option<Name>, String> {
        let Some(Op::WeightRef(op)) = self.graph.def_op(value) else { return Ok(None) };
        if op.dtype.bits() < 8 {
            return Ok(None);
        }
        self.variant(&op.name, value, perm).map(Some)
    }

    fn variant(&mut self, weight: &str, value: ValueId, perm: &[usize]) -> Result<Name, String> {
        let perm = if perm.is_sorted() { &[] } else { perm };
        let dims = self.ty(value).shape.as_const().ok_or("a weight with a symbol")?;
        let key = (value, perm.to_vec(), Vec::new());
        if let Some(name) = self.variants.get(&key) {
            return Ok(name.clone());
        }
        let stored = self.weights.get(weight).ok_or_else(|| format!("no weight {weight:?}"))?;
        let bytes = stored.bytes.as_slice();
        let (dims, data) = if perm.is_empty() {
            (dims, bytes.to_vec())
        } else {
            let size = stored.ty.dtype.bits() / 8;
            (perm.iter().map(|p| dims[*p]).collect(), transposed(bytes, &dims, size, perm))
        };
        let suffix = if perm.is_empty() { "" } else { ".transposed" };
        let name = self.unique(&format!("{weight}{suffix}"));
        self.body.constants.push(literal(&name, stored.ty.dtype, &dims, data));
        self.variants.insert(key, name.clone());
        Ok(name)
    }

    /// The name, or one like it that is free.
    fn unique(&mut self, name: &str) -> Name {
        let mut name = name.to_owned();
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}

/// Removes nodes none of whose results is read or kept.
fn drop_unread(nodes: &mut Vec<NodeProto>, kept: &BTreeSet<Name>) {
    let mut needed = kept.clone();
    let mut stays: Vec<bool> = Vec::new();
    for node in nodes.iter().rev() {
        let is_needed = node.output.iter().any(|name| needed.contains(name));
        if is_needed {
            needed.extend(views::read(std::slice::from_ref(node)).into_iter().map(str::to_owned));
        }
        stays.push(is_needed);
    }
    nodes.retain(|_| stays.pop().unwrap_or(true));
}

/// The elements in the order of permuted axes.
fn transposed(bytes: &[u8], dims: &[i64], size: usize, perm: &[usize]) -> Vec<u8> {
    let mut strides = vec![size; dims.len()];
    for axis in (0..dims.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * dims[axis + 1] as usize;
    }
    let (dims, strides): (Vec<usize>, Vec<usize>) =
        perm.iter().map(|p| (dims[*p] as usize, strides[*p])).unzip();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; dims.len()];
    for _ in 0..dims.iter().product() {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        out.extend_from_slice(&bytes[at..at + size]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// The least version of the format that has the operator set.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24..=25 => 12,
        _ => 13,
    }
}

fn value_info(name: &str, ty: &TensorType) -> ValueInfoProto {
    let dim = |d: &Dim| Dimension {
        value: match (d.as_const(), d.as_symbol()) {
            (Some(n), _) => Some(dimension::Value::DimValue(n)),
            (None, Some(symbol)) => Some(dimension::Value::DimParam(symbol.name().to_owned())),
            (None, None) => Some(dimension::Value::DimParam(d.to_string())),
        },
        denotation: None,
    };
    let shape = TensorShapeProto { dim: ty.shape.iter().map(dim).collect() };
    let tensor = TensorTypeProto { elem_type: Some(type_number(ty.dtype)), shape: Some(shape) };
    let ty = TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}
