//! Numbers in run lines.

use ssmc_ir::tensor::Data;
use ssmc_ir::{DType, Tensor, TensorError};
use std::collections::BTreeMap;

/// Outputs are printed with this many decimals, so that the last bits of a machine's functions do not show.
const DECIMALS: i32 = 6;

/// Reads `a=[1, 2] b=[3]`.
pub(super) fn lists(text: &str) -> Result<BTreeMap<String, Vec<f64>>, String> {
    let mut all = BTreeMap::new();
    for part in text.split_terminator(']') {
        let (name, values) = part.split_once("=[").ok_or("expected NAME=[..]")?;
        let name = name.trim();
        let values = values.split(',').map(str::trim).filter(|value| !value.is_empty());
        let values: Vec<f64> = values
            .map(|value| value.parse().map_err(|_| format!("{name}: {value:?} is no number")))
            .collect::<Result<_, _>>()?;
        all.insert(name.to_owned(), values);
    }
    Ok(all)
}

/// A tensor of these numbers, rounded to the type.
pub(super) fn tensor(dtype: DType, shape: Vec<usize>, values: Vec<f64>) -> Result<Tensor, String> {
    let tensor: Result<Tensor, TensorError> = if dtype == DType::Bool {
        Tensor::bools(shape, values.iter().map(|x| *x != 0.0).collect())
    } else if dtype.is_int() {
        Tensor::ints(dtype, shape, values.iter().map(|x| *x as i64).collect())
    } else {
        Tensor::floats(dtype, shape, values)
    };
    tensor.map_err(|error| error.to_string())
}

/// All elements, row by row.
pub(super) fn print(tensor: &Tensor) -> String {
    let list = |values: Vec<String>| format!("[{}]", values.join(", "));
    match tensor.data() {
        Data::Int(values) => list(values.iter().map(ToString::to_string).collect()),
        Data::Bool(values) => list(values.iter().map(|x| u8::from(*x).to_string()).collect()),
        _ => list(tensor.to_f64().iter().map(|x| number(*x)).collect()),
    }
}

/// Rounded to [`DECIMALS`], without trailing zeros.
fn number(x: f64) -> String {
    let scale = 10f64.powi(DECIMALS);
    // Adding zero turns -0 into 0.
    let rounded = if x.is_finite() { (x * scale).round() / scale + 0.0 } else { x };
    rounded.to_string()
}
