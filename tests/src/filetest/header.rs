//! The parts of a file.

use ssmc_codegen::target::{CpuLevel, CpuTarget, Target};
use ssmc_ir::Stage;

/// What the lines of `;;!` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name of the sub-test.
    pub test: String,
    /// Whose rules a graph must keep.
    pub stage: Stage,
    /// The one rewrite rule in use; empty for all.
    pub rule: String,
    /// Whether that rule must fire, or must not.
    pub fires: bool,
    /// The CPU level of what is generated.
    pub level: CpuLevel,
    /// Why `run` leaves out compiled code; empty if it does not.
    pub not_compiled: String,
}

impl Header {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// A key or value is not known, or `test` is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut header = Self {
            test: String::new(),
            stage: Stage::Rewritten,
            rule: String::new(),
            fires: true,
            level: CpuLevel::X86_64V3,
            not_compiled: String::new(),
        };
        for line in text.lines().filter_map(|line| line.strip_prefix(";;!")) {
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("header {line:?}: expected key = value"))?;
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "test" => header.test = value.to_owned(),
                "stage" => header.stage = value.parse().map_err(|error| format!("header: {error}"))?,
                "rule" => header.rule = value.to_owned(),
                "fires" => header.fires = value.parse().map_err(|error| format!("header: fires: {error}"))?,
                "level" => header.level = level(value)?,
                "not-compiled" => header.not_compiled = value.to_owned(),
                other => return Err(format!("header: unknown key {other}")),
            }
        }
        if header.test.is_empty() { Err("header: no test = \"..\"".to_owned()) } else { Ok(header) }
    }

    /// The target of what is generated.
    pub fn target(&self) -> CpuTarget {
        CpuTarget::of_level(self.level)
    }
}

fn level(name: &str) -> Result<CpuLevel, String> {
    match name.parse() {
        Ok(Target::Cpu(target)) => Ok(target.level),
        _ => Err(format!("header: level: expected a CPU level, found {name:?}")),
    }
}

/// A file cut in two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Header and graph or kernel.
    pub body: &'a str,
    /// The lines at the end that start with `;;`, without it.
    pub expected: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    /// Cuts the file before its last lines of `;;`.
    pub fn of(text: &'a str) -> Self {
        let is_expected = |line: &str| line.starts_with(";;") && !line.starts_with(";;!");
        let mut body = text.len();
        for line in text.split_inclusive('\n').rev().take_while(|line| is_expected(line)) {
            body -= line.len();
        }
        let expected = text[body..].lines().map(|line| line[2..].trim());
        Self { body: &text[..body], expected: expected.collect() }
    }
}
