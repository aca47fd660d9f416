//! Synthetic Mamba models as ONNX with the recurrence written out step by step, as exporters by tracing do.
//!
//! The weights are those of the folder's `model.safetensors`, which the file names as its external data.

use super::synthetic::{Mixer, Placed, Storage, SyntheticModel};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_proto::{DataLocation, DataType};
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use prost::Message;
use std::fs;
use std::io;
use std::path::Path;

/// The number of sequences and of steps that are baked into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Extent {
    pub batch: usize,
    pub steps: usize,
}

/// Writes the model's folder, and `model.onnx` over `input_ids: i64[batch, steps]` beside its weights.
///
/// # Errors
/// The model is not Mamba-1 with weights in f32, or a file cannot be written.
pub fn write(model: &SyntheticModel, dir: &Path, extent: Extent) -> io::Result<()> {
    let Mixer::Mamba { dt_rank } = model.mixer else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "only Mamba-1 is written step by step"));
    };
    if model.storage != Storage::F32 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "only weights in f32 are written step by step",
        ));
    }
    model.write(dir)?;
    let file = Writer { model, dt_rank, extent, graph: GraphProto::default(), next: 0 }.run()?;
    fs::write(dir.join("model.onnx"), file.encode_to_vec())
}

struct Writer<'a> {
    model: &'a SyntheticModel,
    dt_rank: usize,
    extent: Extent,
    graph: GraphProto,
    next: usize,
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn port(name: &str, elem_type: DataType, dims: &[usize]) -> ValueInfoProto {
    let dim = |d: &usize| Dimension { value: Some(dimension::Value::DimValue(*d as i64)), denotation: None };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(elem_type as i32), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

impl Writer<'_> {
    fn run(mut self) -> io::Result<ModelProto> {
        let Extent { batch, steps } = self.extent;
        for placed in self.model.placed()? {
            self.graph.initializer.push(external(&placed));
        }
        self.graph.name = Some("unrolled".into());
        self.graph.input.push(port("input_ids", DataType::Int64, &[batch, steps]));
        self.graph.output.push(port("logits", DataType::Float, &[batch, steps, self.model.vocab_size]));
        let mut x = self.op("Gather", &["backbone.embeddings.weight", "input_ids"], vec![int("axis", 0)]);
        for layer in 0..self.model.n_layers {
            let normed = self.norm(&x, &format!("backbone.layers.{layer}.norm.weight"));
            let mixed = self.mixer(&normed, &format!("backbone.layers.{layer}.mixer"));
            x = self.op("Add", &[&x, &mixed], Vec::new());
        }
        let x = self.norm(&x, "backbone.norm_f.weight");
        let head = if self.model.tied { "backbone.embeddings.weight" } else { "lm_head.weight" };
        let head = self.op("Transpose", &[head], vec![ints("perm", &[1, 0])]);
        let logits = self.op("MatMul", &[&x, &head], Vec::new());
        if let Some(last) = self.graph.node.last_mut().filter(|n| n.output == [logits]) {
            last.output = vec!["logits".into()];
        }
        Ok(ModelProto {
            ir_version: Some(8),
            producer_name: Some("ssmc".into()),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
            graph: Some(self.graph),
            ..ModelProto::default()
        })
    }

    /// One node; the name of its result.
    fn op(&mut self, op_type: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.split(op_type, inputs, attribute, 1).swap_remove(0)
    }

    fn split(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
        n: usize,
    ) -> Vec<String> {
        let id = self.next;
        self.next += 1;
        let output: Vec<String> = (0..n).map(|i| format!("v{id}.{i}")).collect();
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|x| (*x).to_owned()).collect(),
            output: output.clone(),
            name: Some(format!("node{id}")),
            op_type: Some(op_type.into()),
            attribute,
            ..NodeProto::default()
        });
        output
    }

    fn constant(&mut self, tensor: TensorProto) -> String {
        let value = AttributeProto { t: Some(tensor), ..attribute("value", AttributeType::Tensor) };
        self.op("Constant", &[], vec![value])
    }

    fn axes(&mut self, axes: &[i64]) -> String {
        self.constant(TensorProto {
            dims: vec![axes.len() as i64],
            data_type: Some(DataType::Int64 as i32),
            int64_data: axes.to_vec(),
            ..TensorProto::default()
        })
    }

    fn index(&mut self, i: usize) -> String {
        self.constant(TensorProto {
            data_type: Some(DataType::Int64 as i32),
            int64_data: vec![i as i64],
            ..TensorProto::default()
        })
    }

    fn number(&mut self, dims: &[usize], x: f32) -> String {
        self.constant(TensorProto {
            dims: dims.iter().map(|d| *d as i64).collect(),
            data_type: Some(DataType::Float as i32),
            float_data: vec![x; dims.iter().product()],
            ..TensorProto::default()
        })
    }

    fn unsqueeze(&mut self, x: &str, axes: &[i64]) -> String {
        let axes = self.axes(axes);
        self.op("Unsqueeze", &[x, &axes], Vec::new())
    }

    fn gather(&mut self, x: &str, axis: i64, i: usize) -> String {
        let index = self.index(i);
        self.op("Gather", &[x, &index], vec![int("axis", axis)])
    }

    fn swapped(&mut self, x: &str) -> String {
        self.op("Transpose", &[x], vec![ints("perm", &[0, 2, 1])])
    }

    fn linear(&mut self, x: &str, weight: &str) -> String {
        let weight = self.op("Transpose", &[weight], vec![ints("perm", &[1, 0])]);
        self.op("MatMul", &[x, &weight], Vec::new())
    }

    fn silu(&mut self, x: &str) -> String {
        let gate = self.op("Sigmoid", &[x], Vec::new());
        self.op("Mul", &[x, &gate], Vec::new())
    }

    fn norm(&mut self, x: &str, weight: &str) -> String {
        let two = self.number(&[], 2.0);
        let square = self.op("Pow", &[x, &two], Vec::new());
        let mean = self.op("ReduceMean", &[&square], vec![ints("axes", &[-1]), int("keepdims", 1)]);
        let eps = self.number(&[], 1e-5);
        let sum = self.op("Add", &[&mean, &eps], Vec::new());
        let root = self.op("Sqrt", &[&sum], Vec::new());
        let scale = self.op("Reciprocal", &[&root], Vec::new());
        let normed = self.op("Mul", &[x, &scale], Vec::new());
        self.op("Mul", &[weight, &normed], Vec::new())
    }

    fn mixer(&mut self, x: &str, name: &str) -> String {
        let SyntheticModel { d_inner, d_state, d_conv, .. } = *self.model;
        let weight = |of: &str| format!("{name}.{of}");
        let projected = self.linear(x, &weight("in_proj.weight"));
        let projected = self.swapped(&projected);
        let parts = self.axes(&[d_inner as i64, d_inner as i64]);
        let halves = self.split("Split", &[&projected, &parts], vec![int("axis", 1)], 2);
        let (x, z) = (&halves[0], &halves[1]);
        let pad = d_conv as i64 - 1;
        let attributes = vec![int("group", d_inner as i64), ints("pads", &[pad, pad])];
        let (kernel, bias) = (weight("conv1d.weight"), weight("conv1d.bias"));
        let x = self.op("Conv", &[x, &kernel, &bias], attributes);
        let (zero, end, axis) = (self.axes(&[0]), self.axes(&[self.extent.steps as i64]), self.axes(&[2]));
        let x = self.op("Slice", &[&x, &zero, &end, &axis], Vec::new());
        let x = self.silu(&x);
        let rows = self.swapped(&x);
        let rows = self.linear(&rows, &weight("x_proj.weight"));
        let n = d_state as i64;
        let parts = self.axes(&[self.dt_rank as i64, n, n]);
        let parts = self.split("Split", &[&rows, &parts], vec![int("axis", 2)], 3);
        let dt = self.linear(&parts[0], &weight("dt_proj.weight"));
        let dt = self.op("Add", &[&dt, &weight("dt_proj.bias")], Vec::new());
        let dt = self.op("Softplus", &[&dt], Vec::new());
        let dt = self.swapped(&dt);
        let y = self.scan(&x, &dt, [&parts[1], &parts[2]], &weight("A_log"));
        let d = self.unsqueeze(&weight("D"), &[0, 2]);
        let skip = self.op("Mul", &[&x, &d], Vec::new());
        let y = self.op("Add", &[&y, &skip], Vec::new());
        let gate = self.silu(z);
        let y = self.op("Mul", &[&y, &gate], Vec::new());
        let y = self.swapped(&y);
        self.linear(&y, &weight("out_proj.weight"))
    }

    /// The recurrence over `x, dt: [batch, d_inner, steps]` and `b, c: [batch, steps, d_state]`.
    fn scan(&mut self, x: &str, dt: &str, [b, c]: [&str; 2], a_log: &str) -> String {
        let SyntheticModel { d_inner, d_state, .. } = *self.model;
        let a = self.op("Exp", &[a_log], Vec::new());
        let a = self.op("Neg", &[&a], Vec::new());
        let a = self.unsqueeze(&a, &[0, 2]);
        let dt = self.unsqueeze(dt, &[3]);
        let decay = self.op("Mul", &[&a, &dt], Vec::new());
        let decay = self.op("Exp", &[&decay], Vec::new());
        let b = self.unsqueeze(b, &[1]);
        let b = self.op("Mul", &[&dt, &b], Vec::new());
        let x = self.unsqueeze(x, &[3]);
        let input = self.op("Mul", &[&b, &x], Vec::new());
        let mut h = self.number(&[self.extent.batch, d_inner, d_state], 0.0);
        let mut parts = Vec::new();
        for t in 0..self.extent.steps {
            let decay = self.gather(&decay, 2, t);
            let kept = self.op("Mul", &[&decay, &h], Vec::new());
            let input = self.gather(&input, 2, t);
            h = self.op("Add", &[&kept, &input], Vec::new());
            let c = self.gather(c, 1, t);
            let c = self.unsqueeze(&c, &[-1]);
            let y = self.op("MatMul", &[&h, &c], Vec::new());
            let y = self.gather(&y, 2, 0);
            parts.push(self.unsqueeze(&y, &[-1]));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.op("Concat", &parts, vec![int("axis", -1)])
    }
}

fn external(placed: &Placed) -> TensorProto {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    TensorProto {
        name: Some(placed.name.clone()),
        dims: placed.shape.iter().map(|d| *d as i64).collect(),
        data_type: Some(DataType::Float as i32),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![
            entry("location", "model.safetensors".into()),
            entry("offset", placed.begin.to_string()),
            entry("length", placed.len.to_string()),
        ],
        ..TensorProto::default()
    }
}
