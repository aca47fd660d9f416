//! The symbols of a session: their limits, and the values that a call gives them.

use ssmc_artifact::{DType, Manifest, Program, Symbol, SymbolRole, TensorInfo};

use crate::error::RuntimeError;
use crate::session::SessionOptions;
use crate::tensor::TensorRef;

/// Least and greatest value of each symbol in a session.
pub(crate) fn session_ranges(
    manifest: &Manifest,
    options: &SessionOptions,
) -> Result<Vec<(i64, i64)>, RuntimeError> {
    if let Some((name, max)) =
        options.maxima.iter().find(|(name, _)| manifest.symbols.iter().all(|symbol| symbol.name != *name))
    {
        let names: Vec<_> = manifest.symbols.iter().map(|symbol| symbol.name.as_str()).collect();
        return Err(RuntimeError::Option {
            option: "maxima".into(),
            expected: format!("one of {names:?}"),
            found: format!("{name} = {max}"),
        });
    }
    manifest.symbols.iter().map(|symbol| session_range(symbol, options)).collect()
}

fn session_range(symbol: &Symbol, options: &SessionOptions) -> Result<(i64, i64), RuntimeError> {
    let role = match symbol.role() {
        SymbolRole::Batch => Some(("max_batch", options.max_batch)),
        SymbolRole::SeqLen => Some(("max_len", options.max_len)),
        SymbolRole::Other => None,
    };
    let named = options.maxima.iter().find(|(name, _)| *name == symbol.name);
    let requested = named.map(|(_, max)| ("maxima", *max)).or(role);
    let declared = (symbol.max > 0).then_some(symbol.max);
    let requested_max = requested.map(|(_, max)| i64::try_from(max).unwrap_or(i64::MAX));
    let max = match (requested_max, declared) {
        (Some(requested), Some(declared)) => requested.min(declared),
        (Some(max), None) | (None, Some(max)) => max,
        (None, None) => return Err(RuntimeError::NoMaximum { symbol: symbol.name.clone() }),
    };
    if max < symbol.min {
        return Err(RuntimeError::Option {
            option: requested.map_or("maxima", |(option, _)| option).into(),
            expected: format!("{} at least {}", symbol.name, symbol.min),
            found: max.to_string(),
        });
    }
    Ok((symbol.min, max))
}

/// Bytes of a tensor with these values of the symbols.
#[cfg(feature = "cuda")]
pub(crate) fn byte_len(info: &TensorInfo, values: &[i64]) -> Result<usize, RuntimeError> {
    let size = |source| RuntimeError::Size { what: format!("tensor {}", info.name), source };
    let overflow = || size(ssmc_artifact::ExprError::Overflow);
    let mut n = 1u64;
    for dim in &info.shape {
        let dim = dim.eval(values).map_err(size)?.max(0) as u64;
        n = n.checked_mul(dim).ok_or_else(overflow)?;
    }
    info.dtype().byte_len(n).and_then(|len| usize::try_from(len).ok()).ok_or_else(overflow)
}

/// Index of the batch symbol.
pub(crate) fn batch_symbol(manifest: &Manifest) -> Option<usize> {
    manifest.symbols.iter().position(|symbol| symbol.role() == SymbolRole::Batch)
}

/// Values that a call gives to the symbols of a program.
pub(crate) struct Binding<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) program: &'a Program,
    /// Limits per symbol.
    pub(crate) ranges: &'a [(i64, i64)],
    /// Value per symbol; written by [`Binding::bind`].
    pub(crate) values: &'a mut [i64],
}

/// Value of a symbol that has none yet; no size is negative.
const UNBOUND: i64 = -1;

impl Binding<'_> {
    /// Checks the inputs against the program and binds the symbols by their shapes; `batch` is that of the
    /// state of a stateful program.
    pub(crate) fn bind(
        &mut self,
        batch: Option<usize>,
        inputs: &[(&str, TensorRef<'_>)],
    ) -> Result<(), RuntimeError> {
        self.values.fill(UNBOUND);
        if let (Some(symbol), Some(batch)) = (batch_symbol(self.manifest), batch) {
            self.values[symbol] = batch as i64;
        }
        check_names(self.program, "input", &self.program.inputs, inputs.iter().map(|(name, _)| *name))?;
        for info in &self.program.inputs {
            self.bind_input(info, find(inputs, &info.name), inputs)?;
        }
        for (index, (&value, &(min, max))) in self.values.iter().zip(self.ranges).enumerate() {
            let step = self.manifest.symbols[index].divisibility.max(1);
            let in_range = min <= value && value <= max && value % step == 0;
            if value != UNBOUND && !in_range {
                return Err(range_error(self.manifest, self.program, self.ranges, index, value));
            }
        }
        for info in &self.program.inputs {
            let tensor = find(inputs, &info.name);
            for (expr, &found) in info.shape.iter().zip(tensor.dims()) {
                if expr.eval(self.values) != Ok(found as i64) {
                    return Err(shape_error(self.manifest, self.program, "input", info, tensor.dims()));
                }
            }
            check_values(self.program, info, tensor)?;
        }
        Ok(())
    }

    /// Checks dtype and rank and binds the dims that are symbols.
    fn bind_input(
        &mut self,
        info: &TensorInfo,
        tensor: TensorRef<'_>,
        inputs: &[(&str, TensorRef<'_>)],
    ) -> Result<(), RuntimeError> {
        check_dtype(self.program, "input", info, tensor.dtype())?;
        if info.shape.len() != tensor.dims().len() {
            return Err(shape_error(self.manifest, self.program, "input", info, tensor.dims()));
        }
        for (expr, &dim) in info.shape.iter().zip(tensor.dims()) {
            let Some(symbol) = expr.as_symbol() else { continue };
            let found = dim as i64;
            let bound = self.values[symbol];
            if bound == UNBOUND {
                self.values[symbol] = found;
            } else if bound != found {
                return Err(RuntimeError::SymbolConflict {
                    program: self.program.name.clone(),
                    name: info.name.clone(),
                    symbol: self.manifest.symbols[symbol].name.clone(),
                    other: self.first_use(symbol, bound, inputs),
                    expected: bound,
                    found,
                });
            }
        }
        Ok(())
    }

    /// What gave `symbol` its value: the first input with such a dim, else the state.
    fn first_use(&self, symbol: usize, value: i64, inputs: &[(&str, TensorRef<'_>)]) -> String {
        let has = |info: &&TensorInfo| {
            let dims = find(inputs, &info.name).dims();
            info.shape
                .iter()
                .zip(dims)
                .any(|(expr, &dim)| expr.as_symbol() == Some(symbol) && dim as i64 == value)
        };
        self.program.inputs.iter().find(has).map_or("the state".into(), |info| format!("input {}", info.name))
    }
}

/// The error for symbol `symbol` with the value `found`, which is outside its range or its steps.
pub(crate) fn range_error(
    manifest: &Manifest,
    program: &Program,
    ranges: &[(i64, i64)],
    symbol: usize,
    found: i64,
) -> RuntimeError {
    let (min, max) = ranges[symbol];
    let Symbol { ref name, divisibility, .. } = manifest.symbols[symbol];
    let (program, symbol) = (program.name.clone(), name.clone());
    RuntimeError::SymbolRange { program, symbol, min, max, divisibility, found }
}

/// The error for a tensor of shape `found` that `info` does not describe.
pub(crate) fn shape_error(
    manifest: &Manifest,
    program: &Program,
    what: &'static str,
    info: &TensorInfo,
    found: &[usize],
) -> RuntimeError {
    let dims: Vec<_> = info.shape.iter().map(|dim| dim.display(&manifest.symbols).to_string()).collect();
    RuntimeError::Shape {
        program: program.name.clone(),
        what,
        name: info.name.clone(),
        expected: format!("[{}]", dims.join(", ")),
        found: found.to_vec(),
    }
}

/// The batch that the inputs have by their shapes.
pub(crate) fn input_batch(
    manifest: &Manifest,
    program: &Program,
    inputs: &[(&str, TensorRef<'_>)],
) -> Option<usize> {
    let symbol = batch_symbol(manifest)?;
    program.inputs.iter().find_map(|info| {
        let (_, tensor) = inputs.iter().find(|(name, _)| *name == info.name)?;
        let axis = info.shape.iter().position(|dim| dim.as_symbol() == Some(symbol))?;
        tensor.dims().get(axis).copied()
    })
}

/// The tensor called `name`, which [`check_names`] found.
pub(crate) fn find<'a>(tensors: &[(&str, TensorRef<'a>)], name: &str) -> TensorRef<'a> {
    tensors.iter().find(|(given, _)| *given == name).expect("all names were checked").1
}

pub(crate) fn check_dtype(
    program: &Program,
    what: &'static str,
    info: &TensorInfo,
    found: DType,
) -> Result<(), RuntimeError> {
    if info.dtype() == found {
        return Ok(());
    }
    let (program, name) = (program.name.clone(), info.name.clone());
    Err(RuntimeError::DType { program, what, name, expected: info.dtype(), found })
}

/// Checks that the names given are those of `infos`, once each.
pub(crate) fn check_names<'a>(
    program: &Program,
    what: &'static str,
    infos: &[TensorInfo],
    given: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), RuntimeError> {
    for (index, name) in given.clone().enumerate() {
        if infos.iter().all(|info| info.name != name) || given.clone().take(index).any(|other| other == name)
        {
            return Err(RuntimeError::TensorUnexpected {
                program: program.name.clone(),
                what,
                name: name.to_owned(),
                known: infos.iter().map(|info| info.name.clone()).collect(),
            });
        }
    }
    match infos.iter().find(|info| given.clone().all(|name| name != info.name)) {
        Some(info) => {
            let (program, name) = (program.name.clone(), info.name.clone());
            Err(RuntimeError::TensorMissing { program, what, name })
        }
        None => Ok(()),
    }
}

/// Checks the elements of an integer input that states bounds, as kernels index memory with them.
fn check_values(program: &Program, info: &TensorInfo, tensor: TensorRef<'_>) -> Result<(), RuntimeError> {
    let (min, max) = match (info.min_value, info.max_value) {
        (None, None) => return Ok(()),
        (min, max) => (min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX)),
    };
    let fault = match tensor.dtype() {
        DType::I64 => first_outside(tensor.as_slice::<i64>(), min, max, |v| v),
        DType::I32 => first_outside(tensor.as_slice::<i32>(), min, max, i64::from),
        DType::I16 => first_outside(tensor.as_slice::<i16>(), min, max, i64::from),
        DType::I8 => first_outside(tensor.as_slice::<i8>(), min, max, i64::from),
        DType::U32 => first_outside(tensor.as_slice::<u32>(), min, max, i64::from),
        DType::U16 => first_outside(tensor.as_slice::<u16>(), min, max, i64::from),
        DType::U8 => first_outside(tensor.as_slice::<u8>(), min, max, i64::from),
        other => {
            return Err(RuntimeError::Unsupported {
                what: format!("bounds on input {} of {other}", info.name),
            });
        }
    };
    match fault {
        Some((index, found)) => {
            let (program, name) = (program.name.clone(), info.name.clone());
            Err(RuntimeError::Value { program, name, index, min, max, found })
        }
        None => Ok(()),
    }
}

fn first_outside<T: Copy>(
    values: Option<&[T]>,
    min: i64,
    max: i64,
    widen: impl Fn(T) -> i64,
) -> Option<(usize, i64)> {
    let values = values.expect("the dtype was matched and tensors are aligned");
    let mut widened = values.iter().map(|&value| widen(value)).enumerate();
    widened.find(|&(_, value)| value < min || value > max)
}
