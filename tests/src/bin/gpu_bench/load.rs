//! How long sessions take to be ready: from PTX, from machine code, and from machine code that the driver rejects.

use crate::Result;
use ssmc_artifact::{ArtifactReader, ArtifactWriter};
use ssmc_codegen::assemble::{ArtifactInput, write};
use ssmc_codegen::ptx::Assembler;
use ssmc_ir::DType;
use ssmc_runtime::{Artifact, GpuCode, Session, SessionOptions, Tensor};
use ssmc_tests::gpu_grid::{SYMBOLS, cases, kernels};
use std::path::Path;
use std::time::Instant;

/// The case whose results are compared.
const CASE: &str = "norm of odd sizes";

/// Loads the kernels of the grid in three ways; whether each ran the code that it was to run, with the same results.
pub(crate) fn run() -> Result<bool> {
    let assembler = Assembler::on_path().ok_or("no ptxas is on the PATH")?;
    let kernels = kernels(&cases(DType::BF16, "")?)?;
    let dir = tempfile::tempdir()?;
    let [ptx, cubin, broken] = ["ptx", "cubin", "broken"].map(|name| dir.path().join(name));
    write(&ptx, &kernels, ArtifactInput::default(), &mut |_, _, _| {})?;
    let start = Instant::now();
    let input = ArtifactInput { assembler: Some(assembler), ..ArtifactInput::default() };
    write(&cubin, &kernels, input, &mut |_, _, _| {})?;
    println!("{} kernels assembled in {:.1} s", kernels.kernels.len(), start.elapsed().as_secs_f64());
    break_cubins(&cubin, &broken)?;
    let expected = load("PTX", &ptx, |code| *code == GpuCode::Ptx)?;
    let is_rejected = |code: &GpuCode| matches!(code, GpuCode::RejectedCubin { .. });
    let found =
        [load("cubin", &cubin, |code| *code == GpuCode::Cubin)?, load("broken cubin", &broken, is_rejected)?];
    Ok(expected.is_some() && found.iter().all(|found| *found == expected))
}

/// Loads an artefact and runs a kernel; its result, if the code is as it should be.
fn load(what: &str, path: &Path, is_right: impl Fn(&GpuCode) -> bool) -> Result<Option<Vec<u8>>> {
    let artifact = Artifact::open(path)?;
    let maxima = SYMBOLS.iter().map(|symbol| ((*symbol).to_owned(), 8));
    let options = SessionOptions { threads: 1, maxima: maxima.collect(), ..SessionOptions::default() };
    let start = Instant::now();
    let mut session = Session::new(&artifact, &options)?;
    let ms = 1e3 * start.elapsed().as_secs_f64();
    let code = session.gpu_code().ok_or("no GPU is in use")?.clone();
    let fits = is_right(&code);
    println!("{what}: loaded in {ms:.1} ms, {code:?}{}", if fits { "" } else { " WRONG" });
    let case = &cases(DType::BF16, CASE)?[0];
    let inputs = case.inputs([1, 5])?;
    let buffer = |name: &str| -> Result<Tensor> {
        let tensor = inputs.get(name).ok_or("an input is missing")?;
        Ok(Tensor::from_bytes(ssmc_runtime::DType::Bf16, tensor.shape(), &tensor.to_bytes())?)
    };
    let (x, w) = (buffer("x")?, buffer("w")?);
    let outputs = session.run(CASE, &[("x", x.view()), ("w", w.view())])?;
    let y = outputs.get("y").ok_or("no output y")?;
    Ok(fits.then(|| y.bytes().to_vec()))
}

/// The artefact with cubins for another kind of machine.
fn break_cubins(from: &Path, to: &Path) -> Result<()> {
    let reader = ArtifactReader::open(std::fs::read(from)?)?;
    let mut writer = ArtifactWriter::create(to)?;
    for (level, i) in reader.manifest().levels.iter().zip(0..) {
        writer.add_code(level.clone(), reader.code(i).ok_or("a level has no code")?.to_vec());
        let mut cubin = reader.cubin(i).ok_or("a level has no cubin")?.to_vec();
        // The kind of machine in the header of the file.
        cubin[0x12..0x14].fill(0);
        writer.add_cubin(i, cubin);
    }
    writer.finish(reader.manifest().clone())?;
    Ok(())
}
