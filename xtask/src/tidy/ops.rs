//! Every op has its sections of documentation and a test that names it.

use super::repo::{Repo, is_test};
use regex::Regex;

const FOLDER: &str = "ir/src/ops/";
/// The section that the documentation of every op with operands has.
const SHAPES: &str = "# Shapes";

pub(super) fn check(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    let mut names = Vec::new();
    for (path, text) in repo.rust(&[FOLDER]).filter(|(path, _)| !is_test(path)) {
        for op in captures(r"impl OpDef for (\w+)", text) {
            match documentation(text, &op) {
                None => faults.push(format!("{path}: {op} has no documentation")),
                Some(doc) if !doc.contains(SHAPES) && has_operands(text, &op) => {
                    faults.push(format!("{path}: the documentation of {op} has no section {SHAPES}"));
                }
                Some(_) => {}
            }
        }
        names.extend(captures(r#"fn name\(&self\) -> &'static str \{\s*"([^"]+)""#, text));
        for table in captures(r"(?s)keyword!\((?:Unary|Binary)Fn \{(.*?)\}\)", text) {
            names.extend(captures(r#"= "(\w+)""#, &table));
        }
    }
    if names.is_empty() {
        faults.push(format!("{FOLDER}: found no op"));
    }
    let tested =
        |path: &str| path.starts_with("tests/filetests/") || (path.starts_with(FOLDER) && is_test(path));
    let tests: String =
        repo.files.iter().filter(|(path, _)| tested(path)).map(|(_, text)| text.as_str()).collect();
    for name in names {
        let word = Regex::new(&format!(r"(^|[^\w.]){}([^\w.]|$)", regex::escape(&name)));
        if !word.expect("the pattern is valid").is_match(&tests) {
            faults.push(format!("{name}: no filetest and no test of {FOLDER} names it"));
        }
    }
    faults
}

/// First groups of all matches.
fn captures(pattern: &str, text: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).expect("the pattern is valid");
    pattern.captures_iter(text).map(|groups| groups[1].to_owned()).collect()
}

/// Whether the op takes values; a source has a type of its own.
fn has_operands(text: &str, op: &str) -> bool {
    let body = text.split_once(&format!("impl OpDef for {op} ")).map_or("", |(_, body)| body);
    let list = body.split_once("const OPERANDS").map_or("", |(_, list)| list);
    let list = list.split_once(';').map_or("", |(list, _)| list);
    !list.trim_end().ends_with("&[]")
}

/// The comment above a struct.
fn documentation(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let start = Regex::new(&format!(r"^pub struct {name}\b")).expect("the pattern is valid");
    let at = lines.iter().position(|line| start.is_match(line))?;
    let above = lines[..at].iter().rev();
    let doc: Vec<&str> =
        above.take_while(|line| line.starts_with("///") || line.starts_with("#[")).copied().collect();
    let doc: Vec<&str> = doc.into_iter().filter(|line| line.starts_with("///")).rev().collect();
    (!doc.is_empty()).then(|| doc.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::repo::files;
    use super::*;

    const OP: &str = "/// Turns.\n///\n/// # Shapes\n/// any\n#[derive(Clone)]\npub struct Turn {\n}\n\nimpl OpDef for Turn {\n    fn name(&self) -> &'static str {\n        \"turn\"\n    }\n}\n";

    #[test]
    fn documented_and_tested_ops_pass() {
        let test = ("ir/src/ops/eval/tests.rs", "check(\"turn {axis=1}\", 1)");
        assert_eq!(check(&files(&[("ir/src/ops/turn.rs", OP), test])), Vec::<String>::new());
        let test = ("tests/filetests/run/turn.ssm", "%1 = turn %0 : f32[2]");
        assert_eq!(check(&files(&[("ir/src/ops/turn.rs", OP), test])), Vec::<String>::new());
    }

    #[test]
    fn others_are_found() {
        let faults = check(&files(&[("ir/src/ops/turn.rs", OP), ("tests/filetests/a.ssm", "upturn %0")]));
        assert!(faults.len() == 1 && faults[0].starts_with("turn: no filetest"), "{faults:?}");
        let bare = OP.replace("/// # Shapes\n", "");
        let faults = check(&files(&[("ir/src/ops/turn.rs", &bare), ("tests/filetests/a.ssm", "turn %0")]));
        assert!(faults.len() == 1 && faults[0].contains("# Shapes"), "{faults:?}");
        let source =
            bare.replace("{\n    fn name", "{\n    const OPERANDS: &'static [Operand] = &[];\n    fn name");
        let faults = check(&files(&[("ir/src/ops/turn.rs", &source), ("tests/filetests/a.ssm", "turn %0")]));
        assert_eq!(faults, Vec::<String>::new());
        let table = "keyword!(UnaryFn {\n    Neg = \"neg\",\n});";
        assert_eq!(check(&files(&[("ir/src/ops/elementwise.rs", table)])).len(), 1);
        assert_eq!(check(&files(&[])).len(), 1);
    }
}
