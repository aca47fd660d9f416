//! Rewrites an ONNX model into an equivalent one: `ssmc-scramble MODEL.onnx OUT.onnx SEED`. Prints what it changed.

use ssmc_frontend::onnx::{read_message, write_message};
use ssmc_tests::scramble::scramble;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, output, seed] = &args[..] else {
        eprintln!("usage: ssmc-scramble MODEL.onnx OUT.onnx SEED");
        return ExitCode::from(2);
    };
    match run(Path::new(model), Path::new(output), seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ssmc-scramble: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(model: &Path, output: &Path, seed: &str) -> Result<(), Box<dyn Error>> {
    let mut message = read_message(model)?;
    let changes = scramble(&mut message, seed.parse()?);
    write_message(output, &message)?;
    let list: Vec<String> = changes.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    println!("{}", list.join(", "));
    Ok(())
}
