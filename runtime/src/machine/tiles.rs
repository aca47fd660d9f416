//! What matrix tiles do at most.
#![expect(unsafe_code, reason = "stable Rust has the instructions of tiles as assembly only")]

use std::arch::asm;

use ssmc_artifact::host::has_feature;

const ROUNDS: usize = 1_000_000;
/// Products of tiles in a round.
const AT_ONCE: usize = 4;

/// What `ldtilecfg` reads: all tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config([u8; 64]);

impl Config {
    const WHOLE: Config = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Config(bytes)
    };
}

macro_rules! products {
    ($name:ident, $inst:literal, $feature:literal, $operations:literal) => {
        /// Operations done; 0 if the processor has no such tiles, or this process may not use them.
        pub(super) fn $name() -> usize {
            if !(has_feature("amx-tile") && has_feature($feature)) {
                return 0;
            }
            // SAFETY: the processor has the instructions, the system lets this process use tiles, and the memory that is
            // read has the size that the first instruction asks for.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "tilezero tmm4",
                    "tilezero tmm5",
                    "tilezero tmm6",
                    "tilezero tmm7",
                    "2:",
                    concat!($inst, " tmm0, tmm4, tmm6"),
                    concat!($inst, " tmm1, tmm4, tmm7"),
                    concat!($inst, " tmm2, tmm5, tmm6"),
                    concat!($inst, " tmm3, tmm5, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    "tilerelease",
                    config = in(reg) &Config::WHOLE,
                    rounds = inout(reg) ROUNDS => _,
                    out("tmm0") _,
                    out("tmm1") _,
                    out("tmm2") _,
                    out("tmm3") _,
                    out("tmm4") _,
                    out("tmm5") _,
                    out("tmm6") _,
                    out("tmm7") _,
                    options(nostack, readonly),
                );
            }
            ROUNDS * AT_ONCE * $operations
        }
    };
}

// 16 x 16 sums of 32 products, and of 64.
products!(halves, "tdpbf16ps", "amx-bf16", 16384);
products!(bytes, "tdpbsud", "amx-int8", 32768);
