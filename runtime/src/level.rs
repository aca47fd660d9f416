//! Which of an artefact's code levels the machine can run.

use ssmc_artifact::Level;
use ssmc_artifact::host::has_feature;

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

/// Whether machine code for `arch` is that of GPUs of this compute capability.
#[cfg(feature = "cuda")]
pub(crate) fn is_of(arch: &str, (major, minor): (i32, i32)) -> bool {
    arch.trim_start_matches("sm_").trim_end_matches('a').parse() == Ok(major * 10 + minor)
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

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    #[test]
    fn machine_code_is_for_one_capability_and_ptx_for_later_ones_too() {
        let (ampere, ada, hopper, blackwell) = ((8, 0), (8, 9), (9, 0), (10, 0));
        assert_eq!([ampere, ada, hopper].map(|found| is_of("sm_80", found)), [true, false, false]);
        assert_eq!([ampere, ada, hopper].map(|found| runs_ptx("sm_80", found)), [true; 3]);
        assert_eq!([ampere, hopper, blackwell].map(|found| is_of("sm_90a", found)), [false, true, false]);
        assert_eq!([ampere, hopper, blackwell].map(|found| runs_ptx("sm_90a", found)), [false, true, false]);
    }
}
