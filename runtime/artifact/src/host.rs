//! What the processor that runs this code has.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "the operating system is asked for the use of matrix tiles by a system call"
    )
)]

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
pub fn has_feature(name: &str) -> bool {
    if let Some(bit) = TILE_FEATURES.iter().find(|(feature, _)| *feature == name).map(|(_, bit)| bit) {
        return has_tiles(*bit);
    }
    detect!(is_x86_feature_detected, name, [
        "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "avx" "avx2" "f16c" "fma" "bmi1" "bmi2" "lzcnt"
        "movbe" "xsave" "fxsr" "avxvnni" "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512vnni"
        "avx512bf16" "avx512fp16" "avx512vbmi" "avx512vbmi2" "avx512bitalg" "avx512vpopcntdq" "avx512ifma"
    ])
}

/// Whether the processor has a feature; features that this runtime does not know count as absent.
#[cfg(target_arch = "aarch64")]
pub fn has_feature(name: &str) -> bool {
    detect!(is_aarch64_feature_detected, name, ["neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2"])
}

/// Whether the processor has a feature; features that this runtime does not know count as absent.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn has_feature(_name: &str) -> bool {
    false
}

/// Features of matrix tiles, and their bits in what `cpuid` says of leaf 7 in `edx`.
#[cfg(target_arch = "x86_64")]
const TILE_FEATURES: [(&str, u32); 3] = [("amx-bf16", 22), ("amx-tile", 24), ("amx-int8", 25)];

/// Whether the processor has a feature of matrix tiles, and this process may use it.
#[cfg(target_arch = "x86_64")]
fn has_tiles(bit: u32) -> bool {
    static MAY_USE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    leaf.edx >> bit & 1 == 1 && *MAY_USE.get_or_init(request_tiles)
}

/// Asks Linux to keep the contents of tiles for this process (`arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call reads and writes no memory of this process; the registers that it changes are named.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems are not asked.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_tiles() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::has_feature;

    #[test]
    fn unknown_features_are_absent() {
        assert!(!has_feature("quantum"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn tiles_of_something_come_with_tiles() {
        assert!(has_feature("amx-tile") || !(has_feature("amx-bf16") || has_feature("amx-int8")));
    }
}
