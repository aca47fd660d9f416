//! Storage formats of weights.
//!
//! [`store`] puts the matrices that [`policy`] chooses into another format and leaves the graph as true as before: a
//! quantized matrix becomes a `dequantize` of its integers, a rounded one a cast. It runs on an imported model, so that
//! the reference interpreter computes with the numbers that were stored.

pub mod policy;
pub mod products;
mod round;

use crate::names::{self, UnknownName};
use crate::pass::PassError;
use policy::Matrix;
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::{Dequantize, Op};
use ssmc_ir::{DType, Model, Shape, Tensor, TensorError, TensorType, Weight};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightFormat {
    F32,
    Bf16,
    F16,
    /// Symmetric, one scale for each output.
    Int8,
    /// Symmetric, one scale for this many inputs of an output.
    Int4 {
        /// Elements that share a scale.
        group: usize,
    },
}

impl WeightFormat {
    /// The spellings that users may write.
    pub const NAMES: [&'static str; 7] = ["f32", "bf16", "f16", "int8", "int4", "int4-64", "int4-128"];

    /// Largest relative root mean square by which the logits of a language model may differ from those in f32: what
    /// is promised for models that were trained, checked on the demo model.
    pub fn bound(self) -> f64 {
        match self {
            WeightFormat::F32 => 1e-4,
            WeightFormat::Bf16 | WeightFormat::F16 => 0.01,
            WeightFormat::Int8 => 0.03,
            WeightFormat::Int4 { .. } => 0.08,
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::F32 => f.write_str("f32"),
            WeightFormat::Bf16 => f.write_str("bf16"),
            WeightFormat::F16 => f.write_str("f16"),
            WeightFormat::Int8 => f.write_str("int8"),
            WeightFormat::Int4 { group: 32 } => f.write_str("int4"),
            WeightFormat::Int4 { group } => write!(f, "int4-{group}"),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = UnknownName;

    /// Reads one of [`WeightFormat::NAMES`].
    ///
    /// # Errors
    /// Any other name.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        const ALL: [WeightFormat; 7] = [
            WeightFormat::F32,
            WeightFormat::Bf16,
            WeightFormat::F16,
            WeightFormat::Int8,
            WeightFormat::Int4 { group: 32 },
            WeightFormat::Int4 { group: 64 },
            WeightFormat::Int4 { group: 128 },
        ];
        names::choose(&ALL, &Self::NAMES, name)
    }
}

/// Why weights cannot be stored in a format.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The elements of a weight do not fit its type.
    #[error("weight {name:?}: {source}")]
    Weight {
        /// The weight.
        name: String,
        /// What does not fit.
        source: TensorError,
    },
    /// The graph cannot be rebuilt.
    #[error(transparent)]
    Pass(#[from] PassError),
}

impl From<EditError> for StoreError {
    fn from(error: EditError) -> Self {
        Self::Pass(error.into())
    }
}

/// A weight that was put into another format.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Bits of storage per element, scales included.
    pub bits: f64,
    /// Root mean square of the error over that of the weight.
    pub error: f64,
}

/// Puts the matrices that the policy chooses into a format. Returns what it did, by name.
///
/// # Errors
/// A weight's bytes do not fit its type, or the graph is not valid.
pub fn store(model: &mut Model, format: WeightFormat) -> Result<Vec<Stored>, StoreError> {
    let matrices = policy::matrices(&model.graph);
    let mut done = Vec::new();
    let mut forms: BTreeMap<&str, Form> = BTreeMap::new();
    for (name, matrix) in &matrices {
        let Some(weight) = model.weights.get(name) else { continue };
        let fault = |source| StoreError::Weight { name: name.clone(), source };
        let dims: Vec<usize> =
            weight.ty.shape.as_const().unwrap_or_default().into_iter().map(|d| d as usize).collect();
        let exact = Tensor::from_bytes(weight.ty.dtype, dims.clone(), weight.bytes.as_slice())
            .map_err(fault)?
            .to_f64();
        let (form, stored, bits) = match format {
            WeightFormat::Int8 => quantized(model, name, matrix, &exact, (8, dims[matrix.k_axis])),
            WeightFormat::Int4 { group } if dims[matrix.k_axis].is_multiple_of(group) && !matrix.is_table => {
                quantized(model, name, matrix, &exact, (4, group))
            }
            // Tables, and rows that no group divides.
            WeightFormat::Int4 { .. } => quantized(model, name, matrix, &exact, (8, dims[matrix.k_axis])),
            WeightFormat::F32 | WeightFormat::Bf16 | WeightFormat::F16 => {
                let dtype = match format {
                    WeightFormat::Bf16 => DType::BF16,
                    WeightFormat::F16 => DType::F16,
                    _ => DType::F32,
                };
                if dtype == weight.ty.dtype {
                    continue;
                }
                let tensor = Tensor::floats(dtype, dims, exact.clone()).map_err(fault)?.rounded();
                let weight = Weight { ty: weight.ty.with_dtype(dtype), bytes: tensor.to_bytes().into() };
                model.weights.insert(name.clone(), weight);
                (Form::Cast(dtype), tensor.to_f64(), dtype.bits() as f64)
            }
        };
        let shape = model.weights.get(name).map(|w| w.ty.shape.clone()).unwrap_or_default();
        done.push(Stored { name: name.clone(), shape, bits, error: round::relative_error(&exact, &stored) });
        forms.insert(name, form);
    }
    model.graph = rewrite(&model.graph, |r, _, node| {
        // A conversion of what is f32 already takes the place of the one that was there.
        if let Op::Cast(cast) = &node.op
            && cast.to == DType::F32
            && let Some(source) = node.operands[0]
            && let Some(Op::WeightRef(weight)) = r.old().def_op(source)
            && forms.contains_key(weight.name.as_str())
        {
            let stored = r.get(source)?;
            let wide = match r.builder().graph().def_node(stored) {
                Some(cast) if matches!(cast.op, Op::Cast(_)) => cast.operands[0],
                _ => None,
            };
            let value = r.builder().cast(wide.unwrap_or(stored), DType::F32).map_err(EditError::from)?;
            r.replace(node.results[0], value)?;
            return Ok(Action::Done);
        }
        let Op::WeightRef(weight) = &node.op else { return Ok(Action::Copy) };
        let Some(form) = forms.get(weight.name.as_str()) else { return Ok(Action::Copy) };
        let ty = r.old().ty(node.results[0]).clone();
        let b = r.builder();
        let value = match form {
            Form::Cast(dtype) => b.weight(weight.name.clone(), &ty.with_dtype(*dtype)),
            Form::Dequantize { op, scale, scale_type } => {
                let q = b.weight(weight.name.clone(), &ty.with_dtype(DType::I8));
                q.and_then(|q| Ok((q, b.weight(scale.clone(), scale_type)?)))
                    .and_then(|(q, scale)| b.op(op.clone(), &[q, scale]))
            }
        };
        let value = value.and_then(|value| b.cast(value, ty.dtype)).map_err(EditError::from)?;
        r.replace(node.results[0], value)?;
        Ok::<_, EditError>(Action::Done)
    })?;
    model.graph = ssmc_ir::edit::dce(&model.graph)?;
    Ok(done)
}

/// What stands for a weight in the graph.
enum Form {
    /// It has another element type.
    Cast(DType),
    /// It is integers with scales.
    Dequantize { op: Dequantize, scale: String, scale_type: TensorType },
}

/// Replaces a weight by integers of so many bits, and scales for groups of its inputs: the form, the numbers that they
/// stand for, and the bits of storage per element.
fn quantized(
    model: &mut Model,
    name: &str,
    matrix: &Matrix,
    exact: &[f64],
    (bits, group): (usize, usize),
) -> (Form, Vec<f64>, f64) {
    let axis = matrix.k_axis;
    let shape = &matrix.shape;
    let round::Quantized { ints, scales, scale_dtype } = round::quantize(exact, shape, axis, (bits, group));
    let mut scale_shape: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
    scale_shape[axis] /= group as i64;
    let scale_type = TensorType::new(scale_dtype, scale_shape.iter().copied().collect::<Shape>());
    let numbers = round::numbers(&ints, &scales, shape, (axis, group));
    let names = (0..).map(|i| if i == 0 { format!("{name}.scale") } else { format!("{name}.scale{i}") });
    let mut free = names.skip_while(|name| model.weights.get(name).is_some());
    let scale = free.next().expect("there are more numbers than weights");
    let dims: Vec<usize> = scale_shape.iter().map(|d| *d as usize).collect();
    let tensor = Tensor::floats(scale_dtype, dims, scales).expect("a scale for each group");
    model.weights.insert(scale.clone(), Weight { ty: scale_type.clone(), bytes: tensor.to_bytes().into() });
    let ty = TensorType::new(DType::I8, shape.iter().map(|d| *d as i64).collect::<Shape>());
    let bytes: Vec<u8> = ints.into_iter().map(i8::cast_unsigned).collect();
    model.weights.insert(name.to_owned(), Weight { ty, bytes: bytes.into() });
    let stored_bits = bits as f64 + scale_dtype.bits() as f64 / group as f64;
    (Form::Dequantize { op: Dequantize { axis, group, bits }, scale, scale_type }, numbers, stored_bits)
}

#[cfg(test)]
mod tests;
