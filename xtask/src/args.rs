//! Arguments of tasks: words and `--name VALUE` pairs.

use std::collections::BTreeMap;

use crate::Result;

/// A parsed command line.
#[derive(Debug, PartialEq)]
pub(crate) struct Args {
    pub(crate) words: Vec<String>,
    options: BTreeMap<&'static str, String>,
}

impl Args {
    /// Reads `args`; `known` are the names of the options, without dashes.
    pub(crate) fn parse(args: &[String], known: &[&'static str]) -> Result<Self> {
        let mut parsed = Self { words: Vec::new(), options: BTreeMap::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(option) = arg.strip_prefix("--") else {
                parsed.words.push(arg.clone());
                continue;
            };
            let (name, inline) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let name = known.iter().find(|known| **known == name).ok_or_else(|| {
                let known: Vec<_> = known.iter().map(|name| format!("--{name}")).collect();
                format!("expected one of {}, found --{name}", known.join(" "))
            })?;
            let value = inline.or_else(|| args.next().cloned());
            parsed.options.insert(name, value.ok_or_else(|| format!("--{name}: no value"))?);
        }
        Ok(parsed)
    }

    /// The value of an option.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Args::parse(&args, &["kind", "filter"])
    }

    #[test]
    fn words_and_options() {
        let args = parse(&["dir", "--kind", "onnx", "--filter=^a=b$"]).unwrap();
        assert_eq!(args.words, ["dir"]);
        assert_eq!((args.get("kind"), args.get("filter")), (Some("onnx"), Some("^a=b$")));
    }

    #[test]
    fn faults() {
        assert!(parse(&["--king", "onnx"]).unwrap_err().to_string().contains("--kind"));
        assert!(parse(&["--kind"]).unwrap_err().to_string().contains("no value"));
    }
}
