//! Every rewrite rule has a test that names it, a filetest in which it fires, and a row in `docs/rules.md`.

use super::repo::{Repo, is_test};
use regex::Regex;

const FOLDER: &str = "passes/src/rules/";
const FILETESTS: &str = "tests/filetests/";
const DOCUMENT: &str = "docs/rules.md";
/// How the searcher reads products: no rule of its own, part of every test of one.
const READING: &str = "rearrange-product";

pub(super) fn check(repo: &Repo) -> Vec<String> {
    let name = Regex::new(r#"(?m)^\s*name: "([a-z0-9-]+)""#).expect("the pattern is valid");
    let mut names = Vec::new();
    for (_, text) in repo.rust(&[FOLDER]).filter(|(path, _)| !is_test(path)) {
        names.extend(name.captures_iter(text).map(|groups| groups[1].to_owned()));
    }
    let mut faults = Vec::new();
    if names.is_empty() {
        faults.push(format!("{FOLDER}: found no rule"));
    }
    let tested = |path: &str| {
        path.starts_with("tests/filetests/rules/") || (path.starts_with("passes/src/") && is_test(path))
    };
    let tests: Vec<&String> =
        repo.files.iter().filter(|(path, _)| tested(path)).map(|(_, text)| text).collect();
    let document = repo.files.get(DOCUMENT).map_or("", String::as_str);
    for name in names {
        if name != READING && !tests.iter().any(|text| text.contains(&format!("\"{name}\""))) {
            faults.push(format!("{name}: no test names it"));
        }
        if name != READING && !fires(repo, &name) {
            faults.push(format!("{name}: fires in no filetest of {FILETESTS} (cargo xtask bless)"));
        }
        if !document.contains(&format!("`{name}`")) {
            faults.push(format!("{name}: not in {DOCUMENT} (cargo xtask codegen)"));
        }
    }
    faults
}

/// Whether a filetest says that the rule fires; running it proves that.
fn fires(repo: &Repo, name: &str) -> bool {
    let mut tests = repo.files.iter().filter(|(path, _)| path.starts_with(FILETESTS));
    let names = format!(";;! rule = \"{name}\"\n");
    tests.any(|(_, text)| text.contains(&names) && !text.contains(";;! fires = false"))
}

#[cfg(test)]
mod tests {
    use super::super::repo::files;
    use super::*;

    #[test]
    fn rules_without_test_or_document_are_found() {
        let rule = ("passes/src/rules/gate.rs", "Rule {\n    name: \"silu-product\",\n}");
        let test = ("passes/src/rules/tests.rs", "(\"silu-product\", |g, fires| {");
        let document = ("docs/rules.md", "### `silu-product`");
        let fires =
            ("tests/filetests/rules/silu.ssm", ";;! test = \"rewrite\"\n;;! rule = \"silu-product\"\n");
        let keeps = ("tests/filetests/rules/not.ssm", ";;! rule = \"silu-product\"\n;;! fires = false\n");
        assert_eq!(check(&files(&[rule, test, fires, document])), Vec::<String>::new());
        assert_eq!(check(&files(&[rule, test, keeps, document])).len(), 1);
        assert!(check(&files(&[rule, fires, test]))[0].contains("not in docs/rules.md"));
        assert_eq!(check(&files(&[rule, document])).len(), 2);
        assert_eq!(check(&files(&[])).len(), 1);
    }
}
