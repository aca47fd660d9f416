//! Arguments that several verbs share.

use crate::failure::{Failure, Kind, Outcome};
use clap::Args;
use regex::Regex;
use ssmc::{CompileOptions, ComputeType, StateType};
use ssmc_codegen::ptx::Assembler;
use ssmc_codegen::target::{CpuArch, CpuLevel, CpuTarget, GpuArch, GpuTarget, Target};
use ssmc_frontend::shapes::InputShape;
use ssmc_ir::ops::Mode;
use ssmc_passes::egraph::RewriteOptions;
use ssmc_passes::stream::StreamOptions;
use ssmc_passes::weights::WeightFormat;
use ssmc_runtime::{Gemm, SessionOptions};
use std::path::PathBuf;

/// GPUs; CPUs are named by the triples of their systems.
const CUDA: &str = "cuda";

/// How a model is compiled.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompileArgs {
    /// What to compile for: x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu, cuda or several of them; an artefact
    /// for CPUs and GPUs runs on a GPU if there is one [default: those of --target-cpu, else x86_64-unknown-linux-gnu]
    #[arg(long, value_delimiter = ',', value_name = "TRIPLE")]
    pub(crate) target: Vec<String>,
    /// GPU architecture to compile for: sm_80 (which later ones run too) or sm_90; may be repeated
    #[arg(long, value_name = "ARCH", default_values = ["sm_80", "sm_90a"])]
    pub(crate) gpu: Vec<String>,
    /// NVIDIA's assembler ptxas, which makes machine code of the PTX for GPUs; `none` leaves it to the driver
    /// [default: ptxas on the PATH where an artefact is kept, else none]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) ptxas: Option<PathBuf>,
    /// CPU level to compile for: x86-64-v2, x86-64-v3, x86-64-v3-vnni, x86-64-v4, x86-64-v4-bf16, x86-64-v4-amx, aarch64,
    /// aarch64-dotprod, aarch64-i8mm or native; may be repeated [default: x86-64-v3 and x86-64-v4, with --weights bf16, int8 or int4
    /// also x86-64-v4-bf16, with bf16 and int8 x86-64-v4-amx; of aarch64 aarch64, with int8 and int4 also the other two]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) target_cpu: Vec<String>,
    /// Store the matrices of large products in this format: f32, bf16, f16, int8, int4, int4-64 or int4-128
    /// [default: as in the model]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) weights: Option<WeightFormat>,
    /// Type in which kernels of GPUs store values for each other: f32, bf16, f16, or weights, that of most weights of
    /// products; residual streams, step sizes and states stay as they are [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub(crate) compute_dtype: Option<ComputeType>,
    /// Type in which recurrent states are kept between calls: f32, bf16 or f16; they are computed in f32 [default: f32]
    #[arg(long, value_name = "TYPE")]
    pub(crate) state_dtype: Option<StateType>,
    /// Leave RMS norms before products as they are with --compute-dtype bf16, for products by cublasLt, which cannot scale
    /// rows; verbs that run a model with --gemm cublaslt do so by themselves
    #[arg(long)]
    pub(crate) keep_norms: bool,
    /// Leave out rewrite rules whose name matches this regular expression; may be repeated
    #[arg(long, value_name = "RE")]
    pub(crate) disable_rules: Vec<Regex>,
    /// Rewriting effort: 0 = no rewriting, 1 = few rounds, 2 = normal, 3 = larger limits
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(crate) opt_level: u8,
    /// Derive `prefill` and `step` with explicit state from a model over whole sequences
    #[arg(long)]
    pub(crate) streaming: bool,
    /// Which axis of an input is time; may be repeated [default: the one along which recurrences run]
    #[arg(long, value_name = "INPUT:AXIS", requires = "streaming", value_parser = time_axis)]
    pub(crate) time_axis: Vec<(String, usize)>,
    /// Let attention stream over a window of at most N steps, which then is the longest sequence
    #[arg(long, value_name = "N", requires = "streaming", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_context: Option<u32>,
    /// Fix, rename or bound sizes of an input, such as x:1,T<=4096,768; _ leaves an axis as it is; may be repeated
    #[arg(long, value_name = "NAME:SIZES")]
    pub(crate) input_shapes: Vec<InputShape>,
    /// The mode that every scan must have: recurrent or chunked [default: the cheapest]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub(crate) mode: Option<Mode>,
    /// End rewriting after N runs of passes and applications of rules, and say which was the last
    #[arg(long, value_name = "N")]
    pub(crate) bisect_limit: Option<usize>,
    /// Write the times of passes and of measured launches to this file, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// Reads `INPUT:AXIS`.
fn time_axis(text: &str) -> Result<(String, usize), String> {
    let fault = || format!("expected INPUT:AXIS, found {text:?}");
    let (input, axis) = text.rsplit_once(':').ok_or_else(fault)?;
    Ok((input.to_owned(), axis.parse().map_err(|_| fault())?))
}

fn mode(text: &str) -> Result<Mode, String> {
    let modes = [Mode::Recurrent, Mode::Chunked];
    let found = modes.into_iter().find(|mode| mode.name() == text);
    found.ok_or_else(|| "expected recurrent or chunked".to_owned())
}

impl CompileArgs {
    pub(crate) fn options(&self) -> Outcome<CompileOptions> {
        let known: Vec<&str> = CpuArch::ALL.map(CpuArch::system_triple).into_iter().chain([CUDA]).collect();
        if let Some(other) = self.target.iter().find(|target| !known.contains(&target.as_str())) {
            let message = format!("--target: expected one of {}, found {other}", known.join(", "));
            return Err(Failure::new(Kind::Unsupported, message));
        }
        let wants = |name: &str| self.target.iter().any(|target| target == name);
        let mut rewrite =
            RewriteOptions { disabled_rules: self.disable_rules.clone(), ..RewriteOptions::default() };
        match self.opt_level {
            0 => rewrite.disabled_rules.push(Regex::new("").expect("the empty pattern is valid")),
            1 => rewrite.iteration_limit = 8,
            2 => {}
            _ => {
                rewrite.iteration_limit *= 2;
                rewrite.node_limit *= 4;
            }
        }
        rewrite.mode = self.mode;
        let bisect_limit = self.bisect_limit;
        let streaming = self.streaming.then(|| StreamOptions {
            time_axes: self.time_axis.iter().cloned().collect(),
            max_context: self.max_context,
        });
        let compute = self.compute_dtype.unwrap_or_default();
        if compute != ComputeType::F32 && !wants(CUDA) {
            let message = format!("--compute-dtype {compute}: CPUs compute in f32; add --target {CUDA}");
            return Err(Failure::usage(message));
        }
        let mut options =
            CompileOptions { rewrite, streaming, compute, bisect_limit, ..CompileOptions::default() };
        options.state = self.state_dtype.unwrap_or_default();
        options.fold_norms = !self.keep_norms;
        options.targets = self.levels()?.into_iter().map(|l| Target::Cpu(CpuTarget::of_level(l))).collect();
        // Rows are rounded to bf16 only for whom asks for weights in bf16; a checkpoint in bf16 does not.
        if self.weights != Some(WeightFormat::Bf16) {
            for target in &mut options.targets {
                if let Target::Cpu(cpu) = target {
                    cpu.has_dot_bf16 = false;
                }
            }
        }
        if wants(CUDA) {
            options.targets.extend(self.gpus()?);
        }
        Ok(options)
    }

    /// The same for a model that is run as soon as it is compiled.
    pub(crate) fn to_run(&self, session: &SessionArgs) -> CompileArgs {
        let keep_norms = self.keep_norms || session.gemm == GemmArg::Cublaslt;
        CompileArgs { keep_norms, ..self.clone() }
    }

    /// What makes cubins, if anything does; `kept` says that the artefact is more than temporary.
    pub(crate) fn assembler(&self, kept: bool) -> Option<Assembler> {
        match &self.ptxas {
            Some(program) if program.as_os_str() == "none" => None,
            Some(program) => Some(Assembler::at(program)),
            None if kept => Assembler::on_path(),
            None => None,
        }
    }

    /// The GPU architectures asked for, oldest first, each once.
    fn gpus(&self) -> Outcome<Vec<Target>> {
        let mut archs: Vec<GpuArch> = Vec::new();
        for name in &self.gpu {
            let arch = GpuArch::ALL.into_iter().find(|a| a.name() == name || a.name() == format!("{name}a"));
            let known = GpuArch::ALL.map(GpuArch::name).join(", ");
            archs.push(arch.ok_or_else(|| Failure::usage(format!("--gpu {name}: expected one of {known}")))?);
        }
        archs.sort_unstable();
        archs.dedup();
        Ok(archs.into_iter().map(|arch| Target::Gpu(GpuTarget::of_arch(arch))).collect())
    }

    /// The levels asked for and those of architectures asked for, lowest first, each once.
    fn levels(&self) -> Outcome<Vec<CpuLevel>> {
        let named = self.named_levels()?;
        let wants = |arch: CpuArch| match self.target.as_slice() {
            [] if named.is_empty() => arch == CpuArch::X86_64,
            [] => named.iter().any(|level| level.arch() == arch),
            targets => targets.iter().any(|target| target == arch.system_triple()),
        };
        if let Some(level) = named.iter().find(|level| !wants(level.arch())) {
            let (level, triple) = (level.name(), level.arch().system_triple());
            let message = format!("--target-cpu {level}: expected --target to name {triple} too");
            return Err(Failure::usage(message));
        }
        let mut levels: Vec<CpuLevel> = Vec::new();
        for arch in CpuArch::ALL.into_iter().filter(|arch| wants(*arch)) {
            let known = levels.len();
            levels.extend(named.iter().filter(|level| level.arch() == arch));
            if levels.len() == known {
                levels.extend(default_levels(arch, self.weights));
            }
        }
        levels.sort_unstable();
        levels.dedup();
        Ok(levels)
    }

    fn named_levels(&self) -> Outcome<Vec<CpuLevel>> {
        let mut levels: Vec<CpuLevel> = Vec::new();
        for name in &self.target_cpu {
            let target: Target = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
            let Target::Cpu(cpu) = target else {
                return Err(Failure::usage(format!(
                    "--target-cpu {name}: expected a CPU level, found a GPU"
                )));
            };
            levels.push(cpu.level);
        }
        Ok(levels)
    }
}

/// The levels of an architecture where none is named: those that most machines run, and those that multiply weights of
/// this format faster.
fn default_levels(arch: CpuArch, weights: Option<WeightFormat>) -> Vec<CpuLevel> {
    let (mut levels, more): (Vec<CpuLevel>, &[CpuLevel]) = match (arch, weights) {
        (CpuArch::X86_64, weights) => {
            let more: &[CpuLevel] = match weights {
                None | Some(WeightFormat::F32 | WeightFormat::F16) => &[],
                Some(WeightFormat::Int4 { .. }) => &[CpuLevel::X86_64V4Bf16],
                Some(WeightFormat::Bf16 | WeightFormat::Int8) => {
                    &[CpuLevel::X86_64V4Bf16, CpuLevel::X86_64V4Amx]
                }
            };
            (vec![CpuLevel::X86_64V3, CpuLevel::X86_64V4], more)
        }
        (CpuArch::Aarch64, Some(WeightFormat::Int8 | WeightFormat::Int4 { .. })) => {
            (vec![CpuLevel::Aarch64], &[CpuLevel::Aarch64Dotprod, CpuLevel::Aarch64I8mm])
        }
        (CpuArch::Aarch64, _) => (vec![CpuLevel::Aarch64], &[]),
    };
    levels.extend(more);
    levels
}

/// How an artefact is run.
#[derive(Args, Clone, Debug)]
pub(crate) struct SessionArgs {
    /// Threads; 0 takes one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Code level of the artefact [default: the best that the machine can run]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) level: Option<String>,
    /// Wait for each launch on a GPU, so that an error names the kernel at fault; slow
    #[arg(long)]
    pub(crate) check_launches: bool,
    /// What multiplies large matrices of halves on a GPU; `cublaslt` needs libcublasLt, `own` the driver alone
    #[arg(long, value_name = "GEMM", value_enum, default_value_t = GemmArg::Own)]
    pub(crate) gemm: GemmArg,
}

/// What multiplies large matrices on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum GemmArg {
    /// The kernels of the artefact
    Own,
    /// NVIDIA's library, where it has the product
    Cublaslt,
}

impl SessionArgs {
    pub(crate) fn options(&self, max_batch: usize, max_len: usize) -> SessionOptions {
        SessionOptions {
            max_batch,
            max_len,
            threads: self.threads,
            level: self.level.clone(),
            check_launches: self.check_launches,
            // No verb undoes a call.
            rollback_depth: 0,
            gemm: match self.gemm {
                GemmArg::Own => Gemm::Own,
                GemmArg::Cublaslt => Gemm::CublasLt,
            },
            ..SessionOptions::default()
        }
    }
}
