//! Writes a model folder with random weights: `ssmc-synthetic FOLDER SHAPE STORAGE [STEPS [LAYERS]]`. With a number of
//! steps above 0, also `model.onnx` over the same weights, with the recurrence of one sequence written out step by step.

use std::path::Path;
use std::process::ExitCode;

use ssmc_frontend::safetensors::synthetic::{Storage, SyntheticModel};
use ssmc_frontend::safetensors::unrolled::{self, Extent};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [folder, shape, storage, ref counts @ ..] = args[..] else { return usage() };
    let counts: Result<Vec<usize>, _> = counts.iter().map(|n| n.parse()).collect();
    let (steps, layers) = match counts.as_deref() {
        Ok([]) => (None, None),
        Ok([steps]) => (Some(*steps), None),
        Ok([0, layers]) => (None, Some(*layers)),
        Ok([steps, layers]) => (Some(*steps), Some(*layers)),
        _ => return usage(),
    };
    let storage = match storage {
        "f32" => Storage::F32,
        "f16" => Storage::F16,
        "bf16" => Storage::BF16,
        _ => return usage(),
    };
    let mut model = match shape {
        "mamba-130m" => SyntheticModel::mamba_130m(storage),
        "mamba2-130m" => SyntheticModel::mamba2_130m(storage),
        "mamba-2.8b" => SyntheticModel::mamba_2_8b(storage),
        "mamba2-2.7b" => SyntheticModel::mamba2_2_7b(storage),
        _ => return usage(),
    };
    model.n_layers = layers.unwrap_or(model.n_layers);
    let written = match steps {
        Some(steps) => unrolled::write(&model, Path::new(folder), Extent { batch: 1, steps }),
        None => model.write(Path::new(folder)),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ssmc-synthetic: {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: ssmc-synthetic FOLDER mamba-130m|mamba2-130m|mamba-2.8b|mamba2-2.7b f32|f16|bf16 [STEPS [LAYERS]]"
    );
    ExitCode::from(2)
}
