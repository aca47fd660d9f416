//! The parts of a file.

use ssmc_ir::Stage;

/// What the lines of `;;!` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name of the sub-test.
    pub test: String,
    /// Whose rules a graph must keep.
    pub stage: Stage,
}

impl Header {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// A key is not known, or `test` is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut test, mut stage) = (None, Stage::Rewritten);
        for line in text.lines().filter_map(|line| line.strip_prefix(";;!")) {
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("header {line:?}: expected key = value"))?;
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "test" => test = Some(value.to_owned()),
                "stage" => stage = value.parse().map_err(|error| format!("header: {error}"))?,
                other => return Err(format!("header: unknown key {other}")),
            }
        }
        Ok(Self { test: test.ok_or("header: no test = \"..\"")?, stage })
    }
}

/// A file cut in two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Header and graph.
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
