//! Which of an artefact's code levels the machine can run.

use ssmc_artifact::Level;

use crate::error::RuntimeError;

/// What the machine lacks to run `level`: the architecture or processor features; empty if it can run it.
pub(crate) fn missing(level: &Level) -> Vec<String> {
    if level.arch == GPU {
        return missing_gpu(level);
    }
    if level.arch != std::env::consts::ARCH {
        return vec![level.arch.clone()];
    }
    level.features.iter().filter(|feature| !has_feature(feature)).cloned().collect()
}

/// The architecture of levels for GPUs.
pub(crate) const GPU: &str = "nvptx64";

/// What the GPU lacks to run PTX for the architectures that `level` names.
#[cfg(feature = "cuda")]
fn missing_gpu(level: &Level) -> Vec<String> {
    let found = match crate::cuda::capability() {
        Ok(found) => found,
        Err(error) => return vec![error.to_string()],
    };
    level.features.iter().filter(|arch| !runs_ptx(arch, found)).cloned().collect()
}

/// Without the feature `cuda` no GPU is looked for.
#[cfg(not(feature = "cuda"))]
fn missing_gpu(level: &Level) -> Vec<String> {
    vec![level.arch.clone()]
}

/// Whether a GPU of this compute capability runs PTX for `sm_XY`, or `sm_XYa` for one capability alone.
#[cfg(feature = "cuda")]
fn runs_ptx(arch: &str, (major, minor): (i32, i32)) -> bool {
    let digits = arch.trim_start_matches("sm_");
    let (digits, is_exact) = match digits.strip_suffix('a') {
        Some(digits) => (digits, true),
        None => (digits, false),
    };
    let Ok(wanted) = digits.parse::<i32>() else { return false };
    let found = major * 10 + minor;
    if is_exact { found == wanted } else { found >= wanted }
}

/// The index of the level to run: `wanted`, or the last one that the machine can run.
pub(crate) fn choose(levels: &[Level], wanted: Option<&str>) -> Result<usize, RuntimeError> {
    if let Some(wanted) = wanted {
        let known = || levels.iter().map(|level| level.name.clone()).collect();
        let index = levels
            .iter()
            .position(|level| level.name == wanted)
            .ok_or_else(|| RuntimeError::UnknownLevel { level: wanted.to_owned(), known: known() })?;
        let missing = missing(&levels[index]);
        if missing.is_empty() {
            return Ok(index);
        }
        return Err(RuntimeError::LevelUnsupported { level: wanted.to_owned(), missing });
    }
    levels.iter().rposition(|level| missing(level).is_empty()).ok_or_else(|| RuntimeError::NoLevel {
        missing: levels
            .iter()
            .map(|level| format!("{} needs {}", level.name, missing(level).join(", ")))
            .collect(),
    })
}

macro_rules! detect {
    ($check:ident, $name:expr, [$($feature:tt)*]) => {
        match $name {
            $($feature => std::arch::$check!($feature),)*
            _ => false,
        }
    };
}

/// Whether the processor has a feature; features that this runtime does not know count as absent.
#[cfg(target_arch = "x86_64")]
fn has_feature(name: &str) -> bool {
    detect!(is_x86_feature_detected, name, [
        "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "avx" "avx2" "f16c" "fma" "bmi1" "bmi2" "lzcnt"
        "movbe" "xsave" "fxsr" "avxvnni" "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512vnni"
        "avx512bf16" "avx512fp16" "avx512vbmi" "avx512vbmi2" "avx512bitalg" "avx512vpopcntdq" "avx512ifma"
    ])
}

/// Whether the processor has a feature; features that this runtime does not know count as absent.
#[cfg(target_arch = "aarch64")]
fn has_feature(name: &str) -> bool {
    detect!(is_aarch64_feature_detected, name, ["neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2"])
}

/// Whether the processor has a feature; features that this runtime does not know count as absent.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_feature(_name: &str) -> bool {
    false
}
