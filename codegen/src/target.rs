//! What a kernel is compiled for: CPU levels and GPUs as plain data.
//!
//! Lowerings read lane counts, register counts and memory sizes from here; the emitters read the
//! strings that their tool chains want. Nothing in this file needs LLVM or CUDA.

use std::fmt;
use std::str::FromStr;

/// What kind of machine runs a launch list. The targets of one device share theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// CPUs, all levels.
    Cpu,
    /// NVIDIA GPUs of one architecture: grids and blocks depend on its instructions.
    Gpu(GpuArch),
}

/// A machine that kernels are compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A CPU instruction-set level.
    Cpu(CpuTarget),
    /// An NVIDIA GPU architecture.
    Gpu(GpuTarget),
}

impl Target {
    /// Every name that [`Target::from_str`] accepts, in the order shown to users.
    pub const NAMES: [&'static str; 12] = [
        "x86-64-v2",
        "x86-64-v3",
        "x86-64-v3-vnni",
        "x86-64-v4",
        "x86-64-v4-bf16",
        "x86-64-v4-amx",
        "aarch64",
        "aarch64-dotprod",
        "aarch64-i8mm",
        "native",
        "sm_80",
        "sm_90a",
    ];

    /// The name of the level or architecture, as written in the artefact.
    pub fn name(&self) -> &str {
        match self {
            Target::Cpu(cpu) => cpu.level.name(),
            Target::Gpu(gpu) => gpu.arch.name(),
        }
    }

    /// The kind of machine.
    pub fn device(&self) -> Device {
        match self {
            Target::Cpu(_) => Device::Cpu,
            Target::Gpu(gpu) => Device::Gpu(gpu.arch),
        }
    }

    /// The CPU description, if this is a CPU.
    pub fn as_cpu(&self) -> Option<&CpuTarget> {
        match self {
            Target::Cpu(cpu) => Some(cpu),
            Target::Gpu(_) => None,
        }
    }

    /// The GPU description, if this is a GPU.
    pub fn as_gpu(&self) -> Option<&GpuTarget> {
        match self {
            Target::Gpu(gpu) => Some(gpu),
            Target::Cpu(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// Parses one of [`Target::NAMES`]; `native` resolves to the host's best level.
    ///
    /// # Errors
    /// [`TargetError::Unknown`] for any other name, [`TargetError::NoNativeLevel`] if `native` is
    /// asked for on a host that no CPU level fits.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if let Some(level) = CpuLevel::ALL.into_iter().find(|level| level.name() == name) {
            return Ok(Target::Cpu(CpuTarget::of_level(level)));
        }
        if let Some(arch) = GpuArch::ALL.into_iter().find(|arch| arch.name() == name) {
            return Ok(Target::Gpu(GpuTarget::of_arch(arch)));
        }
        match name {
            "native" => CpuTarget::native().map(Target::Cpu),
            _ => Err(TargetError::Unknown { found: name.to_owned() }),
        }
    }
}

/// Why a target name does not name a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The name is not in the list.
    #[error("unknown target `{found}`, expected one of {}", Target::NAMES.join(", "))]
    Unknown {
        /// The name as given.
        found: String,
    },
    /// `native` was asked for, but the host reaches no level that kernels can be compiled for.
    #[error("the host CPU reaches none of the CPU levels; it lacks {}", missing.join(", "))]
    NoNativeLevel {
        /// The features of the lowest level that the host lacks.
        missing: Vec<String>,
    },
}

/// An instruction set of CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuArch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm, little-endian.
    Aarch64,
}

impl CpuArch {
    /// All architectures.
    pub const ALL: [CpuArch; 2] = [CpuArch::X86_64, CpuArch::Aarch64];

    /// The name that Rust gives it, as written in the artefact.
    pub fn name(self) -> &'static str {
        match self {
            CpuArch::X86_64 => "x86_64",
            CpuArch::Aarch64 => "aarch64",
        }
    }

    /// The triple of the systems that artefacts run on, as users write it.
    pub fn system_triple(self) -> &'static str {
        match self {
            CpuArch::X86_64 => "x86_64-unknown-linux-gnu",
            CpuArch::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// An x86-64 micro-architecture level of the System V psABI or one of our own that adds dot products to one, or
/// 64-bit Arm with some of its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuLevel {
    /// SSE4.2, no FMA: 128-bit vectors.
    X86_64V2,
    /// AVX2, FMA, F16C: 256-bit vectors.
    X86_64V3,
    /// v3 and AVX-VNNI: dot products of bytes.
    X86_64V3Vnni,
    /// AVX-512 F, BW, CD, DQ, VL: 512-bit vectors.
    X86_64V4,
    /// v4 and AVX-512 VNNI and BF16: dot products of bytes and of `bf16`.
    X86_64V4Bf16,
    /// v4-bf16 and AMX: matrix tiles of bytes and of `bf16`.
    X86_64V4Amx,
    /// Armv8-A with NEON: 128-bit vectors.
    Aarch64,
    /// `aarch64` and the extension DotProd: dot products of signed bytes.
    Aarch64Dotprod,
    /// `aarch64-dotprod` and the extension I8MM: dot products of unsigned by signed bytes.
    Aarch64I8mm,
}

impl CpuLevel {
    /// All levels; of those that a machine runs, the last is the best.
    pub const ALL: [CpuLevel; 9] = [
        CpuLevel::X86_64V2,
        CpuLevel::X86_64V3,
        CpuLevel::X86_64V3Vnni,
        CpuLevel::X86_64V4,
        CpuLevel::X86_64V4Bf16,
        CpuLevel::X86_64V4Amx,
        CpuLevel::Aarch64,
        CpuLevel::Aarch64Dotprod,
        CpuLevel::Aarch64I8mm,
    ];

    /// The instruction set that it is a level of.
    pub fn arch(self) -> CpuArch {
        match self {
            CpuLevel::X86_64V2
            | CpuLevel::X86_64V3
            | CpuLevel::X86_64V3Vnni
            | CpuLevel::X86_64V4
            | CpuLevel::X86_64V4Bf16
            | CpuLevel::X86_64V4Amx => CpuArch::X86_64,
            CpuLevel::Aarch64 | CpuLevel::Aarch64Dotprod | CpuLevel::Aarch64I8mm => CpuArch::Aarch64,
        }
    }

    /// The name of the level, of x86-64 that of the psABI with what ours add.
    pub fn name(self) -> &'static str {
        match self {
            CpuLevel::X86_64V2 => "x86-64-v2",
            CpuLevel::X86_64V3 => "x86-64-v3",
            CpuLevel::X86_64V3Vnni => "x86-64-v3-vnni",
            CpuLevel::X86_64V4 => "x86-64-v4",
            CpuLevel::X86_64V4Bf16 => "x86-64-v4-bf16",
            CpuLevel::X86_64V4Amx => "x86-64-v4-amx",
            CpuLevel::Aarch64 => "aarch64",
            CpuLevel::Aarch64Dotprod => "aarch64-dotprod",
            CpuLevel::Aarch64I8mm => "aarch64-i8mm",
        }
    }

    /// The features that a host must have, by the names of Rust's `is_x86_feature_detected!` and
    /// `is_aarch64_feature_detected!`. A level of the psABI includes the features of those below, ours those of the level
    /// that they extend.
    pub fn runtime_features(self) -> &'static [&'static str] {
        match self {
            CpuLevel::X86_64V2 => &LEVEL_FEATURES[..6],
            CpuLevel::X86_64V3 => &LEVEL_FEATURES[..14],
            CpuLevel::X86_64V3Vnni => &V3_VNNI_FEATURES,
            CpuLevel::X86_64V4 => &LEVEL_FEATURES[..19],
            CpuLevel::X86_64V4Bf16 => &LEVEL_FEATURES[..21],
            CpuLevel::X86_64V4Amx => &LEVEL_FEATURES,
            CpuLevel::Aarch64 => &AARCH64_FEATURES[..1],
            CpuLevel::Aarch64Dotprod => &AARCH64_FEATURES[..2],
            CpuLevel::Aarch64I8mm => &AARCH64_FEATURES,
        }
    }

    /// Whether the host running this code has all of [`CpuLevel::runtime_features`].
    pub fn runs_on_host(self) -> bool {
        self.missing_on_host().is_empty()
    }

    /// The best level that the host reaches.
    pub fn host() -> Option<CpuLevel> {
        CpuLevel::ALL.into_iter().rev().find(|level| level.runs_on_host())
    }

    fn missing_on_host(self) -> Vec<&'static str> {
        self.runtime_features()
            .iter()
            .copied()
            .filter(|feature| !ssmc_artifact::host::has_feature(feature))
            .collect()
    }
}

/// Features of the levels of aarch64: the lowest one's first, then what the others add.
const AARCH64_FEATURES: [&str; 3] = ["neon", "dotprod", "i8mm"];

/// Features of the levels of x86-64: v2's first, then what v3, v4, v4-bf16 and v4-amx add.
const LEVEL_FEATURES: [&str; 24] = [
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "popcnt",
    "cmpxchg16b",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "lzcnt",
    "movbe",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512vnni",
    "avx512bf16",
    "amx-tile",
    "amx-bf16",
    "amx-int8",
];

/// Features of v3-vnni: those of v3, then its own.
const V3_VNNI_FEATURES: [&str; 15] = {
    let mut features = ["avxvnni"; 15];
    let mut i = 0;
    while i < 14 {
        features[i] = LEVEL_FEATURES[i];
        i += 1;
    }
    features
};

/// A CPU level with the numbers that lowerings and the LLVM emitter need.
///
/// Cache sizes are the smallest found among the server and desktop parts of the level, per core,
/// not those of the compiling host: the same input must give the same code everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuTarget {
    /// The instruction-set level.
    pub level: CpuLevel,
    /// LLVM's target triple. Kernels call nothing, so it names no operating system.
    pub triple: &'static str,
    /// LLVM's name of the processor.
    pub llvm_cpu: &'static str,
    /// LLVM's feature string, on top of what `llvm_cpu` implies.
    pub llvm_features: &'static str,
    /// Width of a vector register in bits; also the value of LLVM's `prefer-vector-width`.
    pub vector_bits: u32,
    /// Number of architectural vector registers.
    pub vector_registers: u32,
    /// Whether the level has a fused multiply-add instruction.
    pub has_fma: bool,
    /// Whether the level converts between `f16` and `f32`.
    pub has_f16_convert: bool,
    /// Whether the level has dot products of unsigned by signed bytes.
    pub has_dot_u8: bool,
    /// Whether the level has dot products of signed bytes.
    pub has_dot_i8: bool,
    /// Whether the level has dot products of `bf16`.
    pub has_dot_bf16: bool,
    /// Whether the level has matrix tiles of bytes and of `bf16`.
    pub has_tiles: bool,
    /// Level-1 data cache per core, in bytes.
    pub l1d_bytes: u64,
    /// Level-2 cache per core, in bytes.
    pub l2_bytes: u64,
    /// Level-3 cache per core, in bytes.
    pub l3_bytes: u64,
    /// Size of a cache line, in bytes.
    pub cache_line_bytes: u64,
}

impl CpuTarget {
    /// The description of a level.
    pub fn of_level(level: CpuLevel) -> CpuTarget {
        let common = CpuTarget {
            level,
            triple: "x86_64-unknown-none-elf",
            llvm_cpu: level.name(),
            llvm_features: "",
            vector_bits: 128,
            vector_registers: 16,
            has_fma: false,
            has_f16_convert: false,
            has_dot_u8: false,
            has_dot_i8: false,
            has_dot_bf16: false,
            has_tiles: false,
            l1d_bytes: 32 << 10,
            l2_bytes: 256 << 10,
            l3_bytes: 1 << 20,
            cache_line_bytes: 64,
        };
        let v3 = CpuTarget { vector_bits: 256, has_fma: true, has_f16_convert: true, ..common.clone() };
        let v4 = CpuTarget { vector_bits: 512, vector_registers: 32, l2_bytes: 1 << 20, ..v3.clone() };
        let arm = CpuTarget {
            triple: "aarch64-unknown-none-elf",
            llvm_cpu: "generic",
            llvm_features: "+neon",
            vector_registers: 32,
            has_fma: true,
            has_f16_convert: true,
            l2_bytes: 512 << 10,
            ..common.clone()
        };
        match level {
            CpuLevel::X86_64V2 => common,
            CpuLevel::X86_64V3 => v3,
            CpuLevel::X86_64V3Vnni => {
                CpuTarget { llvm_cpu: "x86-64-v3", llvm_features: "+avxvnni", has_dot_u8: true, ..v3 }
            }
            CpuLevel::X86_64V4 => v4,
            CpuLevel::X86_64V4Bf16 => CpuTarget {
                llvm_cpu: "x86-64-v4",
                llvm_features: "+avx512vnni,+avx512bf16",
                has_dot_u8: true,
                has_dot_bf16: true,
                ..v4
            },
            CpuLevel::X86_64V4Amx => CpuTarget {
                llvm_cpu: "x86-64-v4",
                llvm_features: "+avx512vnni,+avx512bf16,+amx-tile,+amx-bf16,+amx-int8",
                has_dot_u8: true,
                has_dot_bf16: true,
                has_tiles: true,
                l2_bytes: 2 << 20,
                ..v4
            },
            CpuLevel::Aarch64 => arm,
            CpuLevel::Aarch64Dotprod => {
                CpuTarget { llvm_features: "+neon,+dotprod", has_dot_i8: true, ..arm }
            }
            CpuLevel::Aarch64I8mm => {
                CpuTarget { llvm_features: "+neon,+dotprod,+i8mm", has_dot_i8: true, has_dot_u8: true, ..arm }
            }
        }
    }

    /// The best level of the host.
    ///
    /// # Errors
    /// [`TargetError::NoNativeLevel`] if the host lacks features of the lowest level.
    pub fn native() -> Result<CpuTarget, TargetError> {
        let is_of_host = |level: &CpuLevel| level.arch().name() == std::env::consts::ARCH;
        let lowest = CpuLevel::ALL.into_iter().find(is_of_host).unwrap_or(CpuLevel::X86_64V2);
        CpuLevel::host().map(CpuTarget::of_level).ok_or_else(|| TargetError::NoNativeLevel {
            missing: lowest.missing_on_host().into_iter().map(str::to_owned).collect(),
        })
    }

    /// Number of f32 values in a vector register.
    pub fn f32_lanes(&self) -> u32 {
        self.vector_bits / 32
    }
}

/// A GPU architecture that PTX is printed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuArch {
    /// Ampere (A100): the baseline.
    Sm80,
    /// Hopper (H100, H200) with its architecture-specific instructions.
    Sm90a,
}

impl GpuArch {
    /// All architectures, oldest first.
    pub const ALL: [GpuArch; 2] = [GpuArch::Sm80, GpuArch::Sm90a];

    /// The name in PTX's `.target` directive.
    pub fn name(self) -> &'static str {
        match self {
            GpuArch::Sm80 => "sm_80",
            GpuArch::Sm90a => "sm_90a",
        }
    }
}

/// A GPU architecture with its limits (CUDA C++ Programming Guide, "Compute Capabilities").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuTarget {
    /// The architecture.
    pub arch: GpuArch,
    /// Threads per warp.
    pub warp_size: u32,
    /// Most threads in a block.
    pub max_threads_per_block: u32,
    /// Shared memory that a block gets without opting in, in bytes.
    pub static_shared_bytes: u64,
    /// Shared memory that a block can opt in to, in bytes.
    pub max_shared_bytes: u64,
    /// Most 32-bit registers per thread.
    pub max_registers_per_thread: u32,
    /// 32-bit registers per multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Level-2 cache of the whole device, in bytes.
    pub l2_bytes: u64,
}

impl GpuTarget {
    /// The description of an architecture.
    pub fn of_arch(arch: GpuArch) -> GpuTarget {
        let (max_shared_bytes, l2_bytes) = match arch {
            GpuArch::Sm80 => (163 << 10, 40 << 20),
            GpuArch::Sm90a => (227 << 10, 50 << 20),
        };
        GpuTarget {
            arch,
            warp_size: 32,
            max_threads_per_block: 1024,
            static_shared_bytes: 48 << 10,
            max_shared_bytes,
            max_registers_per_thread: 255,
            registers_per_multiprocessor: 65536,
            l2_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_themselves() {
        for name in Target::NAMES.into_iter().filter(|name| *name != "native") {
            assert_eq!(name.parse::<Target>().unwrap().name(), name);
        }
    }

    #[test]
    fn unknown_name_is_reported_with_the_choices() {
        let error = "x86-64-v9".parse::<Target>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown target `x86-64-v9`, expected one of x86-64-v2, x86-64-v3, x86-64-v3-vnni, x86-64-v4, \
             x86-64-v4-bf16, x86-64-v4-amx, aarch64, aarch64-dotprod, aarch64-i8mm, native, sm_80, sm_90a"
        );
    }

    #[test]
    fn levels_include_the_levels_below() {
        use CpuLevel::{Aarch64, Aarch64Dotprod, Aarch64I8mm};
        use CpuLevel::{X86_64V2, X86_64V3, X86_64V3Vnni, X86_64V4, X86_64V4Amx, X86_64V4Bf16};
        let pairs = [
            (X86_64V2, X86_64V3),
            (X86_64V3, X86_64V3Vnni),
            (X86_64V3, X86_64V4),
            (X86_64V4, X86_64V4Bf16),
            (X86_64V4Bf16, X86_64V4Amx),
            (Aarch64, Aarch64Dotprod),
            (Aarch64Dotprod, Aarch64I8mm),
        ];
        for (below, above) in pairs {
            let (below, above) = (below.runtime_features(), above.runtime_features());
            assert!(above.starts_with(below) && above.len() > below.len());
        }
        assert_eq!(X86_64V3Vnni.runtime_features().last(), Some(&"avxvnni"));
        assert_eq!(X86_64V4Bf16.runtime_features()[19..], ["avx512vnni", "avx512bf16"]);
        assert!(X86_64V3.runtime_features().contains(&"fma"));
        assert!(!X86_64V3.runtime_features().contains(&"avx512f"));
        assert_eq!(X86_64V2.runtime_features().last(), Some(&"cmpxchg16b"));
        assert_eq!(X86_64V3.runtime_features().last(), Some(&"movbe"));
    }

    #[test]
    fn native_is_the_highest_level_of_the_host() {
        match CpuTarget::native() {
            Ok(target) => {
                assert!(target.level.runs_on_host());
                for level in CpuLevel::ALL.into_iter().filter(|level| *level > target.level) {
                    assert!(!level.runs_on_host());
                }
            }
            Err(error) => assert!(CpuLevel::host().is_none(), "{error}"),
        }
    }

    #[test]
    fn lanes_follow_from_the_register_width() {
        let lanes = CpuLevel::ALL.map(|level| CpuTarget::of_level(level).f32_lanes());
        assert_eq!(lanes, [4, 8, 8, 16, 16, 16, 4, 4, 4]);
    }

    #[test]
    fn no_machine_runs_levels_of_two_architectures() {
        let runs = |arch| CpuLevel::ALL.into_iter().any(|level| level.arch() == arch && level.runs_on_host());
        assert!(!(runs(CpuArch::X86_64) && runs(CpuArch::Aarch64)));
    }

    #[test]
    fn triples_begin_with_the_architecture() {
        for level in CpuLevel::ALL {
            assert!(CpuTarget::of_level(level).triple.starts_with(level.arch().name()));
            assert!(level.arch().system_triple().starts_with(level.arch().name()));
        }
    }
}
