//! Unsafe code stands in a few files.

use super::repo::{Repo, code_lines};
use regex::Regex;

/// Mapping of files, the thread pool, the calls of compiled code and of the CUDA driver, and LLVM's pointer arithmetic; in tests, calls of
/// compiled code and the counting allocators. What measures the machine picks code by processor; tiles are asked for by a system call.
const ALLOWED: &[&str] = &[
    "codegen/src/llvm/emit/memory.rs",
    "codegen/src/llvm/tests/harness.rs",
    "codegen/src/llvm/tests/image.rs",
    "codegen/src/lower/tests/machine.rs",
    "frontend/src/map.rs",
    "runtime/artifact/src/host.rs",
    "runtime/src/code.rs",
    "runtime/src/cuda/driver.rs",
    "runtime/src/cuda/library.rs",
    "runtime/src/cuda/measure.rs",
    "runtime/src/cuda/memory.rs",
    "runtime/src/cuda/mod.rs",
    "runtime/src/cuda/stream.rs",
    "runtime/src/machine.rs",
    "runtime/src/machine/tiles.rs",
    "runtime/src/pool.rs",
    "runtime/src/session/execute.rs",
    "runtime/tests/session/allocations.rs",
    "tests/src/bin/fuzz/memory.rs",
];

pub(super) fn check(repo: &Repo) -> Vec<String> {
    let unsafe_code =
        Regex::new(r#"\bunsafe\s*(\{|fn\b|impl\b|extern\b|trait\b)"#).expect("the pattern is valid");
    let mut faults = Vec::new();
    // This file spells what it looks for.
    let others = |path: &str| !ALLOWED.contains(&path) && !path.starts_with("xtask/src/tidy/");
    for (path, text) in repo.rust(&[""]).filter(|(path, _)| others(path)) {
        for (number, line) in code_lines(text).filter(|(_, line)| unsafe_code.is_match(line)) {
            faults.push(format!("{path}:{number}: {}", line.trim()));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::repo::files;
    use super::*;

    #[test]
    fn unsafe_blocks_are_found() {
        let block = "// unsafe { in a comment }\nlet unsafe_word = 1;\nlet x = unsafe { f() };\n";
        let faults = check(&files(&[("ir/src/graph.rs", block), ("runtime/src/code.rs", block)]));
        assert_eq!(faults, ["ir/src/graph.rs:3: let x = unsafe { f() };"]);
        assert_eq!(check(&files(&[("ir/src/a.rs", "unsafe impl Send for X {}")])).len(), 1);
    }
}
