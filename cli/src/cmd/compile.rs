//! `ssmc compile`

use super::stages;
use crate::failure::Outcome;
use crate::model::{self, Job};
use crate::options::CompileArgs;
use crate::output::{bytes, note, print, print_json};
use clap::ValueEnum;
use serde_json::json;
use ssmc::Compiled;
use ssmc_codegen::target::{CpuTarget, Target};
use ssmc_ir::{Model, Stage};
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// The artefact to write [default: the model's name with .ssmc, in the current folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    compile: CompileArgs,
    /// Also write these beside the artefact: ir, llvm-ir, asm, obj, ptx
    #[arg(long, value_delimiter = ',', value_name = "KINDS")]
    emit: Vec<Emit>,
    /// Write the text of every stage that is reached to this folder
    #[arg(long, value_name = "DIR")]
    dump_stages: Option<PathBuf>,
    /// End after this stage; an artefact is written by `emitted` alone
    #[arg(long, value_name = "STAGE", default_value = "emitted")]
    stop_after: Stage,
    /// Name of the model in the artefact [default: from its path]
    #[arg(long)]
    name: Option<String>,
    /// Leave out the golden vectors that `selftest` needs
    #[arg(long)]
    no_golden: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Emit {
    Ir,
    LlvmIr,
    Asm,
    Obj,
    Ptx,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let start = Instant::now();
    let mut job = Job::new(&args.model, &args.compile)?;
    let model = job.import()?;
    let compiled = stages_of(args, &model, &mut job)?;
    job.trace.write()?;
    let Some(compiled) = compiled.filter(|_| args.stop_after >= Stage::Legal) else {
        return finish_early(args, json);
    };
    if args.dump_stages.is_some() {
        job.progress.say("printing kernels");
        dump(args, &stages::emitted(&compiled.kernels)?)?;
    }
    if args.stop_after < Stage::Emitted {
        return finish_early(args, json);
    }
    let name = args.name.clone().unwrap_or_else(|| model::name(&args.model));
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.ssmc")));
    let length = write(args, &model, &compiled, &mut job, &name, &output)?;
    job.trace.write()?;
    drop(job);
    let seconds = start.elapsed().as_secs_f64();
    let n_kernels = compiled.kernels.kernels.len();
    let levels: Vec<&str> = compiled.kernels.targets.iter().map(Target::name).collect();
    if json {
        let programs: Vec<_> = compiled
            .kernels
            .programs
            .iter()
            .map(|p| json!({"name": p.name, "launches": p.launches.len()}))
            .collect();
        return print_json(
            "compile",
            json!({
                "model": args.model, "name": name, "output": output, "bytes": length, "seconds": seconds,
                "levels": levels, "kernels": n_kernels, "programs": programs,
            }),
        );
    }
    note(&format!("compiled {name} in {seconds:.1} s: {n_kernels} kernels for {}", levels.join(", ")));
    print(&format!("{} {}\n", output.display(), bytes(length)))
}

/// Runs the stages up to kernels, writing their texts if asked to.
fn stages_of(args: &Args, model: &Model, job: &mut Job<'_>) -> Outcome<Option<Compiled>> {
    let mut dumped = Ok(());
    let compiled = job.compile_until(model, args.stop_after, &mut |reached| {
        if args.dump_stages.is_some() && dumped.is_ok() {
            dumped = dump(args, &stages::texts(reached));
        }
    });
    let compiled = compiled?;
    dumped?;
    Ok(compiled)
}

fn dump(args: &Args, files: &stages::Files) -> Outcome {
    args.dump_stages.as_ref().map_or(Ok(()), |dir| stages::write(dir, files))
}

fn finish_early(args: &Args, json: bool) -> Outcome {
    if json {
        return print_json("compile", json!({"model": args.model, "stopped_after": args.stop_after.name()}));
    }
    note(&format!("stopped after stage {}", args.stop_after));
    Ok(())
}

fn write(
    args: &Args,
    model: &Model,
    compiled: &Compiled,
    job: &mut Job<'_>,
    name: &str,
    output: &std::path::Path,
) -> Outcome<u64> {
    for (i, target) in compiled.kernels.targets.iter().enumerate() {
        let beside = |extension: &str| output.with_extension(format!("{}.{extension}", target.name()));
        match target {
            Target::Cpu(cpu) => emit_cpu(args, compiled, (i, cpu), &beside)?,
            Target::Gpu(gpu) if args.emit.contains(&Emit::Ptx) => {
                let text = stages::ptx(&compiled.kernels, i, gpu)?;
                stages::write_file(&beside("ptx"), text.as_bytes())?;
            }
            Target::Gpu(_) => {}
        }
    }
    if args.emit.contains(&Emit::Ir) {
        for program in &compiled.programs {
            let path = output.with_extension(format!("{}.ssm", program.name));
            stages::write_file(&path, program.rewritten.to_string().as_bytes())?;
        }
    }
    let options = ssmc::WriteOptions {
        golden: !args.no_golden,
        assembler: args.compile.assembler(true),
        ..ssmc::WriteOptions::of(model, name)
    };
    job.write(compiled, output, options)
}

/// What LLVM can show of a CPU level.
#[cfg(feature = "llvm")]
fn emit_cpu(
    args: &Args,
    compiled: &Compiled,
    (level, target): (usize, &CpuTarget),
    beside: &dyn Fn(&str) -> PathBuf,
) -> Outcome {
    use ssmc_codegen::assemble::{WriteError, legal};
    use ssmc_codegen::llvm;
    let emit = |kind: Emit| args.emit.contains(&kind);
    if !(emit(Emit::LlvmIr) || emit(Emit::Asm) || emit(Emit::Obj)) {
        return Ok(());
    }
    let kernels = legal(&compiled.kernels, level).map_err(ssmc::Error::from)?;
    let failed = |error| crate::failure::Failure::from(ssmc::Error::from(WriteError::from(error)));
    if emit(Emit::LlvmIr) {
        let text = llvm::emit_llvm_ir(&kernels, target).map_err(failed)?;
        stages::write_file(&beside("ll"), text.as_bytes())?;
    }
    if emit(Emit::Asm) {
        let text = llvm::emit_asm(&kernels, target).map_err(failed)?;
        stages::write_file(&beside("s"), text.as_bytes())?;
    }
    if emit(Emit::Obj) {
        stages::write_file(&beside("o"), &llvm::emit_object(&kernels, target).map_err(failed)?)?;
    }
    Ok(())
}

/// Writing the artefact says what is missing.
#[cfg(not(feature = "llvm"))]
fn emit_cpu(_: &Args, _: &Compiled, _: (usize, &CpuTarget), _: &dyn Fn(&str) -> PathBuf) -> Outcome {
    Ok(())
}
