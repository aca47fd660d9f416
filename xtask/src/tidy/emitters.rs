//! Everything below the lowerings works on kernels and knows no graph.

use super::repo::Repo;

const FOLDERS: &[&str] =
    &["codegen/src/kernel/", "codegen/src/legalize/", "codegen/src/llvm/", "codegen/src/ptx/"];

pub(super) fn check(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in repo.rust(FOLDERS) {
        for (i, line) in text.lines().enumerate().filter(|(_, line)| line.contains("ssmc_ir")) {
            faults.push(format!("{path}:{}: {}", i + 1, line.trim()));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::repo::files;
    use super::*;

    #[test]
    fn imports_of_the_graph_ir_are_found() {
        let import = "use crate::kernel;\nuse ssmc_ir::Graph;\n";
        let faults =
            check(&files(&[("codegen/src/llvm/emit.rs", import), ("codegen/src/lower/mod.rs", import)]));
        assert_eq!(faults, ["codegen/src/llvm/emit.rs:2: use ssmc_ir::Graph;"]);
    }
}
