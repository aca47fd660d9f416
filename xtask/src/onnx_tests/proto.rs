//! Models and tensors of the node tests, as far as running them needs it.

use ssmc_npz::{Array, Dtype};

use super::wire::{Value, add, all, fields, last, number, numbers, text};
use crate::Result;

/// Fields of `ModelProto`, `GraphProto`, `NodeProto`, `ValueInfoProto`, `TypeProto` and `TensorProto`.
mod field {
    pub(super) const MODEL_GRAPH: u64 = 7;
    pub(super) const MODEL_OPSET: u64 = 8;
    pub(super) const OPSET_DOMAIN: u64 = 1;
    pub(super) const OPSET_VERSION: u64 = 2;
    pub(super) const GRAPH_NODE: u64 = 1;
    pub(super) const GRAPH_INITIALIZER: u64 = 5;
    pub(super) const GRAPH_INPUT: u64 = 11;
    pub(super) const GRAPH_OUTPUT: u64 = 12;
    pub(super) const NODE_OP: u64 = 4;
    pub(super) const NODE_DOMAIN: u64 = 7;
    pub(super) const VALUE_NAME: u64 = 1;
    pub(super) const VALUE_TYPE: u64 = 2;
    pub(super) const TYPE_TENSOR: u64 = 1;
    pub(super) const TYPE_SEQUENCE: u64 = 4;
    pub(super) const TYPE_OPTIONAL: u64 = 9;
    pub(super) const TYPE_INNER: u64 = 1;
    pub(super) const SEQUENCE_TENSORS: u64 = 3;
    pub(super) const OPTIONAL_TENSOR: u64 = 3;
    pub(super) const OPTIONAL_SEQUENCE: u64 = 5;
    pub(super) const TENSOR_ELEM: u64 = 1;
    pub(super) const DIMS: u64 = 1;
    pub(super) const DATA_TYPE: u64 = 2;
    pub(super) const FLOATS: u64 = 4;
    pub(super) const INT32S: u64 = 5;
    pub(super) const INT64S: u64 = 7;
    pub(super) const NAME: u64 = 8;
    pub(super) const RAW: u64 = 9;
    pub(super) const DOUBLES: u64 = 10;
    pub(super) const UINT64S: u64 = 11;
}

/// The element type of strings.
const STRING: u64 = 8;

/// A value that the graph takes or gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    /// Number of the element type; `None` if the value is no tensor.
    pub(super) elem: Option<u64>,
    pub(super) is_sequence: bool,
    pub(super) is_optional: bool,
}

/// What a test puts in the place of a port.
pub(super) enum Given {
    /// The tensors, by the names that they have in a compiled model.
    Tensors(Vec<(String, Array)>),
    Absent,
    /// Elements that files of arrays do not have.
    OtherElements,
}

impl Port {
    /// The message of a test for this port.
    pub(super) fn given(&self, message: &[u8]) -> Result<Given> {
        let mut bytes = message;
        if self.is_optional {
            let field = if self.is_sequence { field::OPTIONAL_SEQUENCE } else { field::OPTIONAL_TENSOR };
            match last(bytes, field)? {
                Some(inner) => bytes = inner,
                None => return Ok(Given::Absent),
            }
        }
        let tensors = if self.is_sequence {
            let tensors = all(bytes, field::SEQUENCE_TENSORS)?;
            tensors
                .into_iter()
                .enumerate()
                .map(|(i, tensor)| (format!("{}.{i}", self.name), tensor))
                .collect()
        } else {
            vec![(self.name.clone(), bytes)]
        };
        let mut arrays = Vec::new();
        for (name, tensor) in tensors {
            let Some(array) = array(tensor)? else { return Ok(Given::OtherElements) };
            arrays.push((name, array));
        }
        Ok(Given::Tensors(arrays))
    }
}

/// What is known of a model.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) bytes: Vec<u8>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    /// Domain and operator of each node of the graph.
    pub(super) nodes: Vec<(String, String)>,
    /// Version of the standard operator set; 1 if the model names none.
    pub(super) opset: u64,
}

impl Model {
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self> {
        let graph = last(&bytes, field::MODEL_GRAPH)?.ok_or("the model has no graph")?;
        let initializers = all(graph, field::GRAPH_INITIALIZER)?;
        let constants: Vec<String> =
            initializers.iter().map(|tensor| text(tensor, field::NAME)).collect::<Result<_>>()?;
        let mut inputs = ports(graph, field::GRAPH_INPUT)?;
        inputs.retain(|port| !constants.contains(&port.name));
        let outputs = ports(graph, field::GRAPH_OUTPUT)?;
        let nodes = all(graph, field::GRAPH_NODE)?
            .into_iter()
            .map(|node| Ok((text(node, field::NODE_DOMAIN)?, text(node, field::NODE_OP)?)))
            .collect::<Result<_>>()?;
        let mut opset = 1;
        for import in all(&bytes, field::MODEL_OPSET)? {
            if matches!(text(import, field::OPSET_DOMAIN)?.as_str(), "" | "ai.onnx") {
                opset = number(import, field::OPSET_VERSION)?;
            }
        }
        Ok(Self { bytes, inputs, outputs, nodes, opset })
    }

    /// Whether a value of it holds strings.
    pub(super) fn has_strings(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).any(|port| port.elem == Some(STRING))
    }

    /// Whether an input is a sequence or optional.
    pub(super) fn has_structure(&self) -> bool {
        self.inputs.iter().any(|port| port.is_sequence || port.is_optional)
    }

    /// The model with these inputs as constants: protobuf puts two messages of one field together.
    pub(super) fn with_constants(&self, constants: &[(&str, &[u8])]) -> Vec<u8> {
        let mut graph = Vec::new();
        for (name, tensor) in constants {
            let mut named = tensor.to_vec();
            add(&mut named, field::NAME, name.as_bytes());
            add(&mut graph, field::GRAPH_INITIALIZER, &named);
        }
        let mut bytes = self.bytes.clone();
        add(&mut bytes, field::MODEL_GRAPH, &graph);
        bytes
    }
}

fn ports(graph: &[u8], number_of: u64) -> Result<Vec<Port>> {
    all(graph, number_of)?
        .into_iter()
        .map(|info| {
            let mut ty = last(info, field::VALUE_TYPE)?.unwrap_or_default();
            let (mut is_optional, mut is_sequence) = (false, false);
            for (number, flag) in
                [(field::TYPE_OPTIONAL, &mut is_optional), (field::TYPE_SEQUENCE, &mut is_sequence)]
            {
                if let Some(inner) = last(ty, number)? {
                    *flag = true;
                    ty = last(inner, field::TYPE_INNER)?.unwrap_or_default();
                }
            }
            let tensor = last(ty, field::TYPE_TENSOR)?;
            let elem = tensor.map(|tensor| number(tensor, field::TENSOR_ELEM)).transpose()?;
            Ok(Port { name: text(info, field::VALUE_NAME)?, elem, is_sequence, is_optional })
        })
        .collect()
}

/// The array of a `TensorProto`; `None` for an element type that arrays of files do not have.
pub(super) fn array(tensor: &[u8]) -> Result<Option<Array>> {
    let shape: Vec<usize> =
        numbers(tensor, field::DIMS)?.into_iter().map(usize::try_from).collect::<Result<_, _>>()?;
    let n: usize = shape.iter().product();
    let elem = number(tensor, field::DATA_TYPE)?;
    if let Some((dtype, bits)) = narrow(elem) {
        let packed = match last(tensor, field::RAW)? {
            Some(raw) => raw.to_vec(),
            None => numbers(tensor, field::INT32S)?.into_iter().map(|n| n as u8).collect(),
        };
        let bytes = unpack(&packed, n, bits, dtype).ok_or("a narrow tensor of another size")?;
        return Ok(Some(Array { dtype, shape, bytes }));
    }
    let Some(dtype) = dtype(elem) else { return Ok(None) };
    let mut bytes = Vec::new();
    for (number, value) in fields(tensor)? {
        match (number, value) {
            (field::RAW | field::FLOATS | field::DOUBLES, Value::Bytes(data)) => {
                bytes.extend_from_slice(data)
            }
            (field::INT32S | field::INT64S | field::UINT64S, _) => {
                let size = dtype.size();
                let list = numbers(tensor, number)?;
                bytes = list.into_iter().flat_map(|n| n.to_le_bytes()[..size].to_vec()).collect();
            }
            _ => {}
        }
    }
    if bytes.len() != n * dtype.size() {
        return Err(format!("a tensor of {n} {} in {} bytes", dtype.descr(), bytes.len()).into());
    }
    Ok(Some(Array { dtype, shape, bytes }))
}

/// Whether a tensor may say how a node works rather than what it computes with: integers, or few numbers.
pub(super) fn is_parameter(tensor: &[u8]) -> Result<bool> {
    let Some(array) = array(tensor)? else { return Ok(false) };
    let is_float = matches!(array.dtype, Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64);
    Ok(!is_float || array.shape.len() <= 1)
}

/// The bytes that hold an element type narrower than a byte or of 8 bit floats, and its bits.
fn narrow(number: u64) -> Option<(Dtype, usize)> {
    Some(match number {
        17..=20 | 24 => (Dtype::U8, 8),
        21 | 23 => (Dtype::U8, 4),
        22 => (Dtype::I8, 4),
        25 => (Dtype::U8, 2),
        26 => (Dtype::I8, 2),
        _ => return None,
    })
}

/// `n` elements, one to a byte.
fn unpack(packed: &[u8], n: usize, bits: usize, dtype: Dtype) -> Option<Vec<u8>> {
    let (per_byte, unused) = (8 / bits, 8 - bits);
    if packed.len() != n.div_ceil(per_byte) {
        return None;
    }
    let element = |i: usize| {
        let high = packed[i / per_byte] << (unused - i % per_byte * bits);
        if dtype == Dtype::I8 { (high as i8 >> unused) as u8 } else { high >> unused }
    };
    Some((0..n).map(element).collect())
}

/// The element type of a number.
fn dtype(number: u64) -> Option<Dtype> {
    Some(match number {
        1 => Dtype::F32,
        2 => Dtype::U8,
        3 => Dtype::I8,
        4 => Dtype::U16,
        5 => Dtype::I16,
        6 => Dtype::I32,
        7 => Dtype::I64,
        9 => Dtype::Bool,
        10 => Dtype::F16,
        11 => Dtype::F64,
        12 => Dtype::U32,
        13 => Dtype::U64,
        16 => Dtype::Bf16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::wire::add_number;
    use super::*;

    fn tensor(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        add_number(&mut bytes, field::DIMS, 2);
        add_number(&mut bytes, field::DATA_TYPE, 1);
        add(&mut bytes, field::NAME, name.as_bytes());
        add(&mut bytes, field::RAW, &[1.5f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
        bytes
    }

    #[test]
    fn inputs_become_constants() {
        let (mut graph, mut model) = (Vec::new(), Vec::new());
        for name in ["x", "k"] {
            let mut info = Vec::new();
            add(&mut info, field::VALUE_NAME, name.as_bytes());
            add(&mut graph, field::GRAPH_INPUT, &info);
        }
        add(&mut model, field::MODEL_GRAPH, &graph);
        let model = Model::parse(model).unwrap();
        assert_eq!(model.inputs.len(), 2);
        let given = model.with_constants(&[("k", &tensor("other"))]);
        let graphs = all(&given, field::MODEL_GRAPH).unwrap();
        let added = all(graphs[1], field::GRAPH_INITIALIZER).unwrap();
        assert_eq!(text(added[0], field::NAME).unwrap(), "k");
    }

    #[test]
    fn sequences_and_optional_values_are_read() {
        let port =
            |is_sequence, is_optional| Port { name: "s".into(), elem: Some(1), is_sequence, is_optional };
        let names = |given| match given {
            Given::Tensors(tensors) => tensors.into_iter().map(|(name, _)| name).collect(),
            Given::Absent | Given::OtherElements => Vec::new(),
        };
        let mut sequence = Vec::new();
        add(&mut sequence, field::SEQUENCE_TENSORS, &tensor("a"));
        add(&mut sequence, field::SEQUENCE_TENSORS, &tensor("b"));
        assert_eq!(names(port(true, false).given(&sequence).unwrap()), ["s.0", "s.1"]);
        let mut optional = Vec::new();
        assert!(matches!(port(true, true).given(&optional).unwrap(), Given::Absent));
        add(&mut optional, field::OPTIONAL_SEQUENCE, &sequence);
        assert_eq!(names(port(true, true).given(&optional).unwrap()), ["s.0", "s.1"]);
    }

    #[test]
    fn tensors_are_read() {
        let array = array(&tensor("x")).unwrap().unwrap();
        assert_eq!((array.shape, array.dtype), (vec![2], Dtype::F32));
        assert_eq!(array.bytes, [1.5f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
    }
}
