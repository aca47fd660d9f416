//! Tensors between files, interpreter and runtime.

use crate::failure::{Failure, Kind, Outcome};
use crate::file;
use ssmc::{Rng, random_tensor};
use ssmc_artifact::{Manifest, Program, SymbolRole, TensorInfo};
use ssmc_ir::{DType, Tensor};
use ssmc_npz::{Array, Dtype};
use ssmc_runtime::{SessionOptions, Tensor as Buffer};
use std::collections::BTreeMap;
use std::path::Path;

/// Named tensors.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// The arrays of a `.npz` file.
pub(crate) fn read(path: &Path) -> Outcome<Tensors> {
    let arrays = ssmc_npz::read(path).map_err(|error| Failure::file(path, error))?;
    arrays
        .into_iter()
        .map(|(name, array)| {
            let tensor = Tensor::from_bytes(dtype(array.dtype), array.shape, &array.bytes)
                .map_err(|error| Failure::file(path, format!("array {name}: {error}")))?;
            Ok((name, tensor))
        })
        .collect()
}

/// Writes a `.npz` file by way of a temporary name; bf16 becomes f32, which holds it exactly.
pub(crate) fn write(path: &Path, tensors: &Tensors) -> Outcome {
    let mut arrays = Vec::new();
    for (name, tensor) in tensors {
        let storable = match tensor.dtype() {
            DType::BF16 => cast(tensor, DType::F32)
                .ok_or_else(|| Failure::new(Kind::Internal, format!("output {name} is no float")))?,
            _ => tensor.clone(),
        };
        let dtype = Dtype::from_descr(descr(storable.dtype())).ok_or_else(|| {
            let message = format!("output {name}: .npz files hold no {}", tensor.dtype());
            Failure::new(Kind::Unsupported, message)
        })?;
        let array = Array { dtype, shape: storable.shape().to_vec(), bytes: storable.to_bytes() };
        arrays.push((name.as_str(), array));
    }
    file::write_with(path, |path| ssmc_npz::write(path, arrays.iter().map(|(name, array)| (*name, array))))
}

fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::Bool => DType::Bool,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::I16 => DType::I16,
        Dtype::U16 => DType::U16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::U64 => DType::U64,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
    }
}

/// NumPy's spelling; empty for types that it does not have.
fn descr(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "|b1",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        _ => "",
    }
}

/// The tensor in another type of its kind; `None` if the kind differs or an integer does not fit.
pub(crate) fn cast(tensor: &Tensor, to: DType) -> Option<Tensor> {
    let shape = tensor.shape().to_vec();
    if tensor.dtype() == to {
        Some(tensor.clone())
    } else if tensor.dtype().is_float() && to.is_float() {
        Tensor::floats(to, shape, tensor.as_floats().ok()?.to_vec()).ok().map(Tensor::rounded)
    } else if tensor.dtype().is_int() && to.is_int() {
        let ints = tensor.as_ints().ok()?.to_vec();
        let wrapped = Tensor::ints(to, shape, ints).ok()?;
        (wrapped.to_f64() == tensor.to_f64()).then_some(wrapped)
    } else {
        None
    }
}

fn artifact_dtype(dtype: DType) -> ssmc_runtime::DType {
    (1..=21)
        .filter_map(|number| ssmc_runtime::DType::try_from(number).ok())
        .find(|found| found.name() == dtype.name())
        .expect("artefact and graph know the same element types")
}

/// The element type of the graph that the artefact's is.
pub(crate) fn graph_dtype(dtype: ssmc_runtime::DType) -> Outcome<DType> {
    DType::parse(dtype.name())
        .ok_or_else(|| Failure::input(format!("the artefact has a tensor of element type {dtype}")))
}

/// A tensor as the runtime takes it.
pub(crate) fn to_buffer(tensor: &Tensor) -> Outcome<Buffer> {
    let dtype = artifact_dtype(tensor.dtype());
    Buffer::from_bytes(dtype, tensor.shape(), &tensor.to_bytes())
        .map_err(|error| Failure::input(error.to_string()))
}

/// A tensor as the runtime gave it.
pub(crate) fn from_buffer(buffer: &Buffer) -> Outcome<Tensor> {
    Tensor::from_bytes(graph_dtype(buffer.dtype())?, buffer.dims(), buffer.bytes())
        .map_err(|error| Failure::new(Kind::Internal, error.to_string()))
}

/// The inputs of a program from what a file has: all of them and nothing else, in the program's element types.
pub(crate) fn for_program(program: &Program, given: &Tensors) -> Outcome<Tensors> {
    let names = || program.inputs.iter().map(|info| info.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = given.keys().find(|name| program.inputs.iter().all(|info| info.name != **name)) {
        let message = format!("program {}: unexpected input {name}, expected {}", program.name, names());
        return Err(Failure::input(message));
    }
    let mut inputs = Tensors::new();
    for info in &program.inputs {
        let tensor = given.get(&info.name).ok_or_else(|| {
            Failure::input(format!("program {}: input {} is missing", program.name, info.name))
        })?;
        let to = graph_dtype(info.dtype())?;
        let found = tensor.dtype();
        let tensor = cast(tensor, to).ok_or_else(|| {
            let message =
                format!("program {}: input {}: expected {to}, found {found}", program.name, info.name);
            Failure::input(message)
        })?;
        inputs.insert(info.name.clone(), tensor);
    }
    Ok(inputs)
}

/// Raises the session's limits to what inputs of these shapes need.
pub(crate) fn fit(options: &mut SessionOptions, manifest: &Manifest, program: &Program, inputs: &Tensors) {
    for info in &program.inputs {
        let Some(tensor) = inputs.get(&info.name) else { continue };
        for (dim, &extent) in info.shape.iter().zip(tensor.shape()) {
            let Some(symbol) = dim.as_symbol().and_then(|index| manifest.symbols.get(index)) else {
                continue;
            };
            match symbol.role() {
                SymbolRole::Batch => options.max_batch = options.max_batch.max(extent),
                SymbolRole::SeqLen => options.max_len = options.max_len.max(extent),
                SymbolRole::Other => raise(&mut options.maxima, &symbol.name, extent),
            }
        }
    }
}

fn raise(maxima: &mut Vec<(String, usize)>, name: &str, extent: usize) {
    match maxima.iter_mut().find(|(known, _)| known == name) {
        Some((_, most)) => *most = extent.max(*most),
        None => maxima.push((name.to_owned(), extent)),
    }
}

/// Random inputs of a program; `batch` and `len` are the values of the symbols, every other symbol is `len` too.
pub(crate) fn random(
    manifest: &Manifest,
    program: &Program,
    batch: usize,
    len: usize,
    rng: &mut Rng,
) -> Outcome<Tensors> {
    let values: Vec<i64> = manifest
        .symbols
        .iter()
        .map(|symbol| if symbol.role() == SymbolRole::Batch { batch as i64 } else { len as i64 })
        .collect();
    let one = |info: &TensorInfo, rng: &mut Rng| -> Outcome<Tensor> {
        let fault = |error: &dyn std::fmt::Display| Failure::input(format!("input {}: {error}", info.name));
        let extents: Vec<usize> = info
            .shape
            .iter()
            .map(|dim| dim.eval(&values).map(|d| usize::try_from(d).unwrap_or(0)))
            .collect::<Result<_, _>>()
            .map_err(|error| fault(&error))?;
        // An index may count from the end, but a token id does not.
        let bounds = info.min_value.zip(info.max_value).map_or((0, 1), |(low, high)| (low.max(0), high));
        let mut tensor = random_tensor(graph_dtype(info.dtype())?, &extents, bounds, rng)
            .map_err(|error| fault(&error))?;
        if info.name == "seq_idx" {
            // Two sequences in each row.
            let row = extents.last().copied().unwrap_or(1).max(1);
            let ids = (0..tensor.len()).map(|i| i64::from(2 * (i % row) >= row)).collect();
            tensor = Tensor::ints(tensor.dtype(), extents, ids).map_err(|error| fault(&error))?;
        }
        Ok(tensor)
    };
    program.inputs.iter().map(|info| Ok((info.name.clone(), one(info, rng)?))).collect()
}
