//! The grid of problems on the device: every kernel of GPUs against the reference interpreter, also under
//! `compute-sanitizer`.

use crate::Result;
use ssmc_codegen::assemble::{ArtifactInput, dtype as buffer_type, write};
use ssmc_codegen::target::GpuArch;
use ssmc_ir::{DType, Tensor};
use ssmc_runtime::{Artifact, Session, SessionOptions, Tensor as Buffer};
use ssmc_tests::gpu_grid::{Case, DTYPES, SYMBOLS, cases, kernels};
use std::collections::BTreeMap;
use std::process::Command;

/// Runs the grid for every element type and architecture, or the one that is named. Whether all results are right.
pub(crate) fn run(filter: &str, arch: Option<&str>) -> Result<bool> {
    let (mut n_kernels, mut n_cases, mut n_errors) = (0, 0, 0);
    for dtype in DTYPES {
        let cases = cases(dtype, filter)?;
        let kernels = kernels(&cases)?;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("grid.ssmc");
        write(&path, &kernels, ArtifactInput::default(), &mut |_, _, _| {})?;
        let artifact = Artifact::open(&path)?;
        let problems = problems(&cases)?;
        for arch in
            GpuArch::ALL.map(GpuArch::name).into_iter().filter(|name| arch.is_none_or(|arch| arch == *name))
        {
            let mut session = session(&artifact, &cases, arch)?;
            for problem in &problems {
                n_cases += 1;
                for fault in problem.check(&mut session)? {
                    n_errors += 1;
                    let Problem { case, size: [batch, len], .. } = problem;
                    println!("{arch} {} {}, batch {batch}, length {len}: {fault}", dtype.name(), case.name);
                }
            }
            let level = artifact.manifest().levels.iter().position(|level| level.name == arch);
            let is_here =
                |entries: &Vec<u64>| level.is_some_and(|level| entries[level] != ssmc_artifact::NO_ENTRY);
            n_kernels += artifact.manifest().kernels.iter().filter(|kernel| is_here(&kernel.entries)).count();
        }
    }
    println!("{n_kernels} kernels, {n_cases} cases: {n_errors} errors");
    Ok(n_errors == 0)
}

/// Runs the grid under both tools of `compute-sanitizer` that look at memory. Whether neither found anything.
pub(crate) fn sanitize(filter: &str) -> Result<bool> {
    let program = std::env::current_exe()?;
    let mut is_clean = true;
    for tool in ["memcheck", "racecheck"] {
        println!("{tool}:");
        let status = Command::new("compute-sanitizer")
            .args(["--tool", tool, "--error-exitcode", "9"])
            .arg(&program)
            .args(["--grid", filter])
            .status()
            .map_err(|error| format!("compute-sanitizer: {error}"))?;
        is_clean &= status.success();
    }
    println!("sanitizer: {}", if is_clean { "0 errors" } else { "errors, see above" });
    Ok(is_clean)
}

/// A case with sizes, its inputs and what is to come of them.
struct Problem<'c> {
    case: &'c Case,
    size: [usize; 2],
    inputs: BTreeMap<String, Tensor>,
    truth: BTreeMap<String, Tensor>,
}

/// Those of all cases, worked out on all processors.
fn problems(cases: &[Case]) -> Result<Vec<Problem<'_>>> {
    let each = |case| {
        let of = |size: &[usize; 2]| {
            let inputs = Case::inputs(case, *size)?;
            let truth = case.truth(&inputs)?;
            Ok(Problem { case, size: *size, inputs, truth })
        };
        case.sizes.iter().map(of).collect::<Result<Vec<_>, ssmc_tests::gpu_grid::GridError>>()
    };
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(move || each(case))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut all = Vec::new();
    for problems in found {
        all.extend(problems.map_err(|_| "the reference interpreter panicked")??);
    }
    Ok(all)
}

fn session(artifact: &Artifact, cases: &[Case], arch: &str) -> Result<Session> {
    // Every tensor has room for the largest batch and length together.
    let most = |symbol: &str| cases.iter().filter_map(|case| case.most(symbol)).max();
    let maxima = SYMBOLS.iter().filter_map(|symbol| Some(((*symbol).to_owned(), most(symbol)?)));
    let options = SessionOptions {
        threads: 1,
        rollback_depth: 1,
        maxima: maxima.collect(),
        level: Some(arch.to_owned()),
        ..SessionOptions::default()
    };
    Ok(Session::new(artifact, &options)?)
}

impl Problem<'_> {
    /// What is wrong with the outputs on the device; a fault of the driver ends everything.
    fn check(&self, session: &mut Session) -> Result<Vec<String>> {
        let buffers = self
            .inputs
            .iter()
            .map(|(name, tensor)| Ok((name.as_str(), buffer(tensor)?)))
            .collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = buffers.iter().map(|(name, buffer)| (*name, buffer.view())).collect();
        let outputs = session.run(self.case.name, &views)?;
        let mut faults = Vec::new();
        for (name, expected) in &self.truth {
            let output = outputs.get(name).ok_or("an output is missing")?;
            let dtype = DType::parse(output.dtype().name()).ok_or("an unknown element type")?;
            let found = Tensor::from_bytes(dtype, output.dims().to_vec(), output.bytes())?;
            faults.extend(
                self.case.difference(&found, expected).map(|fault| format!("output {name}, {fault}")),
            );
        }
        Ok(faults)
    }
}

fn buffer(tensor: &Tensor) -> Result<Buffer> {
    let dtype = buffer_type(tensor.dtype());
    Ok(Buffer::from_bytes(dtype, tensor.shape(), &tensor.to_bytes())?)
}
