//! A case as its folder describes it.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

use super::expect::Expect;
use crate::Result;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Onnx,
    Checkpoint,
    /// To be refused with this node and this attribute named.
    Invalid {
        node: String,
        attribute: String,
    },
}

impl Kind {
    /// What `--kind` calls it.
    pub(super) fn group(&self) -> &'static str {
        match self {
            Kind::Checkpoint => "checkpoint",
            Kind::Onnx | Kind::Invalid { .. } => "onnx",
        }
    }
}

/// Prompts of one length with the tokens that follow them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Greedy {
    pub(super) prompts: Vec<Vec<u64>>,
    pub(super) tokens: Vec<Vec<u64>>,
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) kind: Kind,
    pub(super) tolerance: f64,
    /// Where the case states what must be recognised.
    pub(super) expect: Option<Expect>,
    /// Whether a program with state can be derived; unknown where the case does not say.
    pub(super) streaming: Option<bool>,
    /// Number of input sets.
    pub(super) sets: usize,
    pub(super) greedy: Vec<Greedy>,
}

impl Case {
    pub(super) fn load(folder: &Path) -> Result<Self> {
        let json = read_json(&folder.join("case.json"))?;
        let text = |key: &str| json[key].as_str().ok_or_else(|| format!("case.json: no text {key}"));
        let kind = match text("kind")? {
            "onnx" => Kind::Onnx,
            "checkpoint" => Kind::Checkpoint,
            "invalid-onnx" => invalid(text("checker")?)?,
            other => return Err(format!("case.json: unknown kind {other}").into()),
        };
        let tolerance = json["tolerance"]["max_abs_over_peak"].as_f64();
        let sets = (0..).take_while(|k| folder.join(format!("inputs_{k}.npz")).is_file()).count();
        if sets == 0 {
            return Err("no inputs_0.npz".into());
        }
        let greedy = folder.join("greedy.json");
        Ok(Self {
            name: text("case")?.to_owned(),
            folder: folder.to_owned(),
            kind,
            tolerance: tolerance.ok_or("case.json: no tolerance.max_abs_over_peak")?,
            expect: json.get("expect").map(Expect::parse).transpose()?,
            streaming: json["expect"]["streaming"].as_bool(),
            sets,
            greedy: if greedy.is_file() { parse_greedy(&read_json(&greedy)?)? } else { Vec::new() },
        })
    }

    /// The file or folder to compile.
    pub(super) fn model(&self) -> PathBuf {
        match self.kind {
            Kind::Checkpoint => self.folder.clone(),
            Kind::Onnx | Kind::Invalid { .. } => self.folder.join("model.onnx"),
        }
    }

    pub(super) fn inputs(&self, set: usize) -> PathBuf {
        self.folder.join(format!("inputs_{set}.npz"))
    }

    pub(super) fn outputs(&self, set: usize) -> PathBuf {
        self.folder.join(format!("outputs_{set}.npz"))
    }
}

fn read_json(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Node and attribute out of what a checker said about a broken graph.
fn invalid(checker: &str) -> Result<Kind> {
    let first = |pattern: &str| -> Result<String> {
        let found = Regex::new(pattern)?.captures(checker).map(|groups| groups[1].to_owned());
        Ok(found.ok_or("case.json: the checker's message names no node and attribute")?)
    };
    Ok(Kind::Invalid { node: first(r"node name: ([^)\s]+)")?, attribute: first(r"attribute (\w+)")? })
}

fn parse_greedy(json: &Value) -> Result<Vec<Greedy>> {
    let fault = || "greedy.json: expected prompts and greedy[].without_cache";
    let prompts = json["prompts"].as_array().ok_or_else(fault)?;
    let results = json["greedy"].as_array().ok_or_else(fault)?;
    if prompts.len() != results.len() {
        return Err(fault().into());
    }
    let rows = |value: &Value| -> Option<Vec<Vec<u64>>> {
        let rows = value.as_array()?.iter();
        rows.map(|row| row.as_array()?.iter().map(Value::as_u64).collect()).collect()
    };
    let sets = prompts.iter().zip(results);
    sets.map(|(prompts, result)| {
        let found = rows(prompts).zip(rows(&result["without_cache"]));
        let (prompts, tokens) = found.ok_or_else(fault)?;
        Ok(Greedy { prompts, tokens })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn checkers_name_node_and_attribute() {
        let text = "(op_type:Transpose, node name: /m/Transpose_9): Invalid attribute perm {0, -2}";
        let expected = Kind::Invalid { node: "/m/Transpose_9".into(), attribute: "perm".into() };
        assert_eq!(invalid(text).unwrap(), expected);
        assert!(invalid("something is wrong").is_err());
    }

    #[test]
    fn greedy_tokens_are_those_without_cache() {
        let row = |tokens: &[u64]| vec![tokens.to_vec()];
        let json = json!({"prompts": [[[1, 2]]], "greedy": [{"with_cache": [[8]], "without_cache": [[9]]}]});
        assert_eq!(parse_greedy(&json).unwrap(), [Greedy { prompts: row(&[1, 2]), tokens: row(&[9]) }]);
        assert!(parse_greedy(&json!({"prompts": [[[1]]], "greedy": []})).is_err());
    }
}
