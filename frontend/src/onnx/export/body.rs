//! Nodes in order, and the constants that they use: the content of a graph or of a function.

use super::super::proto::attribute_proto::AttributeType;
use super::super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use super::sink::Shapes;
use super::{type_number, views};
use prost::bytes::Bytes;
use ssmc_ir::DType;
use std::collections::{BTreeMap, BTreeSet};

/// What a node computes, by the name of the value.
pub(super) type Name = String;

pub(super) struct Body {
    pub(super) opset: i64,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) constants: Vec<TensorProto>,
    /// What the nodes are for, shown in their documentation.
    pub(super) doc: String,
    prefix: &'static str,
    next: usize,
    known: BTreeMap<(i32, Vec<i64>, Vec<u8>), Name>,
    /// Extents of values, as far as they are known.
    pub(super) shapes: Shapes,
}

/// An integer attribute.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) }
}

/// An attribute of several integers.
pub(super) fn ints(name: &str, ints: impl IntoIterator<Item = i64>) -> AttributeProto {
    AttributeProto { ints: ints.into_iter().collect(), ..attribute(name, AttributeType::Ints) }
}

/// A floating-point attribute.
pub(super) fn float(name: &str, f: f64) -> AttributeProto {
    AttributeProto { f: Some(f as f32), ..attribute(name, AttributeType::Float) }
}

/// A text attribute.
pub(super) fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: Some(Bytes::from(s.to_owned())), ..attribute(name, AttributeType::String) }
}

/// A tensor attribute.
pub(super) fn tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t), ..attribute(name, AttributeType::Tensor) }
}

/// A graph attribute.
pub(super) fn graph(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(g), ..attribute(name, AttributeType::Graph) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

/// A tensor of these elements.
pub(super) fn literal(name: &str, dtype: DType, dims: &[i64], data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(type_number(dtype)),
        dims: dims.to_vec(),
        raw_data: Some(Bytes::from(data)),
        ..TensorProto::default()
    }
}

pub(super) fn i64_bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Body {
    pub(super) fn new(opset: i64, prefix: &'static str) -> Self {
        Self {
            opset,
            nodes: Vec::new(),
            constants: Vec::new(),
            doc: String::new(),
            prefix,
            next: 0,
            known: BTreeMap::new(),
            shapes: Shapes::new(),
        }
    }

    /// A name that no other value has.
    pub(super) fn fresh(&mut self) -> Name {
        self.next += 1;
        format!("{}{}", self.prefix, self.next - 1)
    }

    /// A node with this many results; an empty name stands for an absent operand.
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        n_results: usize,
        attribute: Vec<AttributeProto>,
    ) -> Vec<Name> {
        let output: Vec<Name> = (0..n_results).map(|_| self.fresh()).collect();
        let present = inputs.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        self.nodes.push(NodeProto {
            name: Some(format!("{op}_{}", self.nodes.len())),
            op_type: Some(op.to_owned()),
            input: inputs[..present].iter().map(|name| (*name).to_owned()).collect(),
            output: output.clone(),
            attribute,
            doc_string: (!self.doc.is_empty()).then(|| self.doc.clone()),
            ..NodeProto::default()
        });
        output
    }

    pub(super) fn with(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Name {
        self.node(op, inputs, 1, attributes).remove(0)
    }

    pub(super) fn op(&mut self, op: &str, inputs: &[&str]) -> Name {
        self.with(op, inputs, Vec::new())
    }

    /// A constant, once for equal contents.
    pub(super) fn constant(&mut self, dtype: DType, dims: &[i64], data: Vec<u8>) -> Name {
        let key = (type_number(dtype), dims.to_vec(), data);
        if let Some(name) = self.known.get(&key) {
            return name.clone();
        }
        let name = self.fresh();
        self.constants.push(literal(&name, dtype, dims, key.2.clone()));
        self.known.insert(key, name.clone());
        name
    }

    pub(super) fn scalar(&mut self, dtype: DType, x: f64) -> Name {
        self.constant(dtype, &[], ssmc_ir::scalar::encode(dtype, x))
    }

    /// A vector of `i64`.
    pub(super) fn vector(&mut self, values: &[i64]) -> Name {
        self.constant(DType::I64, &[values.len() as i64], i64_bytes(values))
    }

    pub(super) fn unsqueeze(&mut self, x: &str, axes: &[i64]) -> Name {
        if axes.is_empty() {
            return x.to_owned();
        }
        let axes = self.vector(axes);
        self.op("Unsqueeze", &[x, &axes])
    }

    pub(super) fn squeeze(&mut self, x: &str, axes: &[i64]) -> Name {
        let axes = self.vector(axes);
        self.op("Squeeze", &[x, &axes])
    }

    pub(super) fn transpose(&mut self, x: &str, perm: &[usize]) -> Name {
        if perm.is_sorted() {
            return x.to_owned();
        }
        self.with("Transpose", &[x], vec![ints("perm", perm.iter().map(|p| *p as i64))])
    }

    /// `starts..ends` of one axis; negative ends count from the end.
    pub(super) fn slice(&mut self, x: &str, axis: i64, start: i64, end: i64) -> Name {
        let (start, end, axis) = (self.vector(&[start]), self.vector(&[end]), self.vector(&[axis]));
        self.op("Slice", &[x, &start, &end, &axis])
    }

    pub(super) fn reversed(&mut self, x: &str, axis: i64) -> Name {
        let (start, end) = (self.vector(&[-1]), self.vector(&[i64::MIN]));
        let (axis, step) = (self.vector(&[axis]), self.vector(&[-1]));
        self.op("Slice", &[x, &start, &end, &axis, &step])
    }

    /// One part per index of an axis, each of extent 1.
    pub(super) fn split(&mut self, x: &str, axis: i64, n: usize) -> Vec<Name> {
        if n == 1 {
            return vec![x.to_owned()];
        }
        let sizes = self.vector(&vec![1; n]);
        self.node("Split", &[x, &sizes], n, vec![int("axis", axis)])
    }

    pub(super) fn concat(&mut self, xs: &[Name], axis: i64) -> Name {
        if let [x] = xs {
            return x.clone();
        }
        let xs: Vec<&str> = xs.iter().map(String::as_str).collect();
        self.with("Concat", &xs, vec![int("axis", axis)])
    }

    /// A reduction that keeps its axes as extents of 1 or not. `ReduceSum` takes the axes as a tensor from opset 13 on,
    /// the others from 18 on.
    pub(super) fn reduce(&mut self, op: &str, x: &str, axes: &[i64], keepdims: bool) -> Name {
        let keep = int("keepdims", i64::from(keepdims));
        if op == "ReduceSum" || self.opset >= 18 {
            let axes = self.vector(axes);
            return self.with(op, &[x, &axes], vec![keep]);
        }
        self.with(op, &[x], vec![ints("axes", axes.iter().copied()), keep])
    }

    /// x * sigmoid(x)
    pub(super) fn silu(&mut self, x: &str) -> Name {
        let sigmoid = self.op("Sigmoid", &[x]);
        if let Some(shape) = self.shapes.get(x).cloned() {
            self.shapes.insert(sigmoid.clone(), shape);
        }
        self.op("Mul", &[x, &sigmoid])
    }

    /// Gives the value another name: that of the node that computes it, if it is the last one.
    pub(super) fn rename(&mut self, value: &str, to: &str) {
        let last = self.nodes.last_mut().and_then(|n| n.output.iter_mut().find(|o| *o == value));
        match last {
            Some(output) => to.clone_into(output),
            None => {
                self.op("Identity", &[value]);
                let identity = self.nodes.last_mut().expect("it was added above");
                to.clone_into(&mut identity.output[0]);
            }
        }
    }

    /// The nodes with the constants as nodes before them, as functions have them.
    pub(super) fn into_nodes(mut self, results: &[Name]) -> Vec<NodeProto> {
        views::join(&mut self.nodes, &mut self.constants, &results.iter().cloned().collect());
        let used: BTreeSet<&str> = views::read(&self.nodes).into_iter().collect();
        self.constants.retain(|t| used.contains(t.name()));
        let constant = |t: TensorProto| NodeProto {
            op_type: Some("Constant".to_owned()),
            output: vec![t.name().to_owned()],
            attribute: vec![tensor("value", TensorProto { name: None, ..t })],
            ..NodeProto::default()
        };
        self.constants.into_iter().map(constant).chain(self.nodes).collect()
    }
}
