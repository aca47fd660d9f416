//! Passes recognise structure, not the habits of an exporter.

use super::repo::{Repo, code_lines, is_test};
use regex::Regex;

/// Exporters, the projects whose models they export, and the location of a node of an ONNX file.
const FORBIDDEN: &str = r"(?i)torch|onnxscript|onnxsim|onnxruntime|dynamo|tensorflow|keras|\bjax\b|\bflax\b|transformers|mambapy|typeseg|OnnxNode";

/// The field of a rule that says where it is from.
const CITATION: &str = "source: ";

pub(super) fn check(repo: &Repo) -> Vec<String> {
    let forbidden = Regex::new(FORBIDDEN).expect("the pattern is valid");
    let mut faults = Vec::new();
    for (path, text) in repo.rust(&["passes/src/"]).filter(|(path, _)| !is_test(path)) {
        let cites = |line: &str| line.trim_start().starts_with(CITATION);
        for (number, line) in code_lines(text).filter(|(_, line)| forbidden.is_match(line) && !cites(line)) {
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
    fn exporters_names_are_found() {
        let text = "// PyTorch writes this\nif name.starts_with(\"/torch\") {\nsource: \"torch\",\nLoc::OnnxNode { .. }\n";
        let repo =
            [("passes/src/raise/x.rs", text), ("frontend/src/x.rs", text), ("passes/src/tests.rs", text)];
        let faults = check(&files(&repo));
        assert_eq!(faults.len(), 2);
        assert!(faults[0].starts_with("passes/src/raise/x.rs:2") && faults[1].contains(":4:"), "{faults:?}");
    }
}
