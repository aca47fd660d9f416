//! Writes a model folder with random weights: `ssmc-synthetic FOLDER SHAPE STORAGE`.

use std::path::Path;
use std::process::ExitCode;

use ssmc_frontend::safetensors::synthetic::{Storage, SyntheticModel};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [folder, shape, storage] = args[..] else { return usage() };
    let storage = match storage {
        "f32" => Storage::F32,
        "f16" => Storage::F16,
        "bf16" => Storage::BF16,
        _ => return usage(),
    };
    let model = match shape {
        "mamba-130m" => SyntheticModel::mamba_130m(storage),
        "mamba2-130m" => SyntheticModel::mamba2_130m(storage),
        _ => return usage(),
    };
    match model.write(Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ssmc-synthetic: {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: ssmc-synthetic FOLDER mamba-130m|mamba2-130m f32|f16|bf16");
    ExitCode::from(2)
}
