//! NVIDIA's assembler, for tests: `scripts/ptxas.sh` fetches it.

use std::path::PathBuf;

use super::cubin::Assembler;
use crate::target::GpuTarget;

/// What the assembler says about one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) kernel: String,
    pub(crate) registers: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) spilled_bytes: u32,
}

/// The assembler, if it is there.
fn find() -> Option<Assembler> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/ptxas/bin/ptxas"));
    path.is_file().then(|| Assembler::at(path))
}

/// Assembles a module; `None`, said aloud, without an assembler.
///
/// # Panics
/// If the module is not accepted.
pub(crate) fn assemble(name: &str, text: &str, target: &GpuTarget) -> Option<Vec<Usage>> {
    let Some(ptxas) = find() else {
        eprintln!("SKIPPED: {name} is not assembled; scripts/ptxas.sh fetches the assembler");
        return None;
    };
    let (_, log) =
        ptxas.assemble_aloud(text, target.arch).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
    Some(usages(&log))
}

/// [`assemble`], and no register may be spilled; only where `SSMC_PTXAS=all` asks for every kernel of every test.
pub(crate) fn assemble_if_all(name: &str, text: &str, target: &GpuTarget) {
    if std::env::var("SSMC_PTXAS").is_ok_and(|v| v == "all") {
        for usage in assemble(name, text, target).unwrap_or_default() {
            assert_eq!(usage.spilled_bytes, 0, "{name}: {usage:?}");
        }
    }
}

/// The lines `Compiling entry function 'k'`, `N bytes spill stores`, `Used N registers, N bytes smem` of a log.
fn usages(log: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Usage { kernel, registers: 0, shared_bytes: 0, spilled_bytes: 0 });
        }
        let Some(usage) = all.last_mut() else { continue };
        for part in line.split(',') {
            let words: Vec<&str> = part.split_whitespace().collect();
            let number = |i: usize| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(0);
            if part.contains("spill stores") {
                usage.spilled_bytes += number(0);
            }
            if let Some(i) = words.iter().position(|w| *w == "registers") {
                usage.registers = number(i - 1);
            }
            if words.ends_with(&["bytes", "smem"]) {
                usage.shared_bytes = number(0);
            }
        }
    }
    all
}

#[test]
fn logs_are_read() {
    let log = "ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
        ptxas info    : Function properties for k\n    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
        ptxas info    : Used 22 registers, used 1 barriers, 528 bytes smem, 376 bytes cmem[0]\n";
    let expected = Usage { kernel: "k".into(), registers: 22, shared_bytes: 528, spilled_bytes: 4 };
    assert_eq!(usages(log), [expected]);
}
