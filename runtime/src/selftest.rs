//! Running an artefact's golden vectors.

use ssmc_artifact::{GoldenCall, GoldenCase, NamedArray};

use crate::error::RuntimeError;
use crate::session::Session;
use crate::state::State;
use crate::symbols;
use crate::tensor::{Tensor, to_f64};

/// How far an output is from its golden vector.
#[derive(Clone, Debug, PartialEq)]
pub struct SelftestOutput {
    /// The golden case.
    pub case: String,
    /// Index of the call within the case.
    pub call: usize,
    /// The program called.
    pub program: String,
    /// The output.
    pub output: String,
    /// Greatest absolute error; infinite if dtype or shape differ, or one side alone is not a number.
    pub worst_error: f64,
    /// Greatest error as a part of the tolerance `atol + rtol * |expected|`; the output passes up to 1.
    pub worst_ratio: f64,
}

impl SelftestOutput {
    /// Whether every element is within the tolerance.
    pub fn passed(&self) -> bool {
        self.worst_ratio <= 1.0
    }
}

impl Session {
    /// Runs all golden vectors of the artefact on this machine; returns one entry per output.
    ///
    /// # Errors
    /// If a call cannot be run, such as when the session is planned for less than it needs. Wrong numbers are
    /// no error: see [`SelftestOutput::passed`].
    pub fn selftest(&mut self) -> Result<Vec<SelftestOutput>, RuntimeError> {
        let golden = self.artifact().golden()?;
        let mut results = Vec::new();
        for case in &golden.cases {
            let mut state = None;
            for (index, call) in case.calls.iter().enumerate() {
                self.run_golden(case, index, call, &mut state, &mut results)?;
            }
        }
        Ok(results)
    }

    fn run_golden(
        &mut self,
        case: &GoldenCase,
        index: usize,
        call: &GoldenCall,
        state: &mut Option<State>,
        results: &mut Vec<SelftestOutput>,
    ) -> Result<(), RuntimeError> {
        let tensors = call.inputs.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
        let names = call.inputs.iter().map(|array| array.name.as_str());
        let inputs: Vec<_> = names.zip(tensors.iter().map(Tensor::view)).collect();
        let program = self.program(&call.program)?;
        let outputs = if program.stateful {
            let batch = symbols::input_batch(self.artifact().manifest(), program, &inputs);
            let state = match state {
                Some(state) => state,
                None => state.insert(self.new_state(batch.unwrap_or(1))?),
            };
            self.run_stateful(&call.program, state, 0, &inputs)?
        } else {
            self.run(&call.program, &inputs)?
        };
        for expected in &call.outputs {
            let found = outputs.get(&expected.name).ok_or_else(|| RuntimeError::TensorMissing {
                program: call.program.clone(),
                what: "output",
                name: expected.name.clone(),
            })?;
            let (worst_error, worst_ratio) = compare(expected, found, case.rtol, case.atol);
            results.push(SelftestOutput {
                case: case.name.clone(),
                call: index,
                program: call.program.clone(),
                output: expected.name.clone(),
                worst_error,
                worst_ratio,
            });
        }
        Ok(())
    }
}

fn tensor(array: &NamedArray) -> Result<Tensor, RuntimeError> {
    let dims: Vec<usize> = array.dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
    Ok(Tensor::from_bytes(array.dtype(), &dims, &array.data)?)
}

/// Greatest absolute error and greatest part of the tolerance.
fn compare(expected: &NamedArray, found: &Tensor, rtol: f64, atol: f64) -> (f64, f64) {
    const DIFFERENT: (f64, f64) = (f64::INFINITY, f64::INFINITY);
    let same_dims = expected.dims.iter().copied().eq(found.dims().iter().map(|&dim| dim as u64));
    if expected.dtype() != found.dtype() || !same_dims || expected.data.len() != found.bytes().len() {
        return DIFFERENT;
    }
    let (dtype, bytes) = (found.dtype(), found.bytes());
    let (Some(expected_values), Some(values)) = (to_f64(dtype, &expected.data), to_f64(dtype, bytes)) else {
        return if expected.data == bytes { (0.0, 0.0) } else { DIFFERENT };
    };
    expected_values.iter().zip(&values).fold((0.0, 0.0), |(worst_error, worst_ratio), (&expected, &found)| {
        let (error, ratio) = element_error(expected, found, rtol, atol);
        (error.max(worst_error), ratio.max(worst_ratio))
    })
}

fn element_error(expected: f64, found: f64, rtol: f64, atol: f64) -> (f64, f64) {
    if expected == found || (expected.is_nan() && found.is_nan()) {
        return (0.0, 0.0);
    }
    let error = (found - expected).abs();
    if !error.is_finite() {
        return (f64::INFINITY, f64::INFINITY);
    }
    let ratio = error / (atol + rtol * expected.abs());
    (error, if ratio.is_nan() { f64::INFINITY } else { ratio })
}
