//! JSON as model folders contain it.

use super::fault::{Fault, Faults};
use super::{io_error, regular_file};
use crate::error::ImportError;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::Path;

/// The members of a JSON object in their order, repeated names included.
pub(super) struct Pairs(pub(super) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Reads a JSON file of at most `limit` bytes. A fault of its contents goes to `faults` and gives `None`.
///
/// The bare words `Infinity`, `-Infinity` and `NaN`, which Python writes and JSON forbids, are read as strings.
pub(super) fn read(path: &Path, limit: u64, faults: &mut Faults) -> Result<Option<Value>, ImportError> {
    let found = regular_file(path).map_err(io_error(path))?.len();
    if found > limit {
        faults.push(path, Fault::FileTooLarge { limit, found });
        return Ok(None);
    }
    let text = fs::read(path).map_err(io_error(path))?;
    match serde_json::from_slice(&quote_bare_words(&text)) {
        Ok(value) => Ok(Some(value)),
        Err(e) => {
            faults.push(path, Fault::NotJson { found: format!("bytes that fail with {:?}", e.to_string()) });
            Ok(None)
        }
    }
}

fn quote_bare_words(text: &[u8]) -> Vec<u8> {
    const WORDS: [&[u8]; 3] = [b"Infinity", b"-Infinity", b"NaN"];
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(word) = WORDS.iter().find(|w| !in_string && rest.starts_with(w)) {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            rest = &rest[word.len()..];
            continue;
        }
        if in_string && byte == b'\\' && !tail.is_empty() {
            out.extend_from_slice(&rest[..2]);
            rest = &rest[2..];
            continue;
        }
        in_string ^= byte == b'"';
        out.push(byte);
        rest = tail;
    }
    out
}

/// A value in few words, for a message.
pub(super) fn brief(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_become_strings() {
        let check = |text: &str, expect: &str| {
            assert_eq!(String::from_utf8(quote_bare_words(text.as_bytes())).unwrap(), expect);
        };
        check(r#"{"a": Infinity, "b": [-Infinity, NaN]}"#, r#"{"a": "Infinity", "b": ["-Infinity", "NaN"]}"#);
        check(r#"{"Infinity": "say \"NaN\" -Infinity"}"#, r#"{"Infinity": "say \"NaN\" -Infinity"}"#);
        check(r#""unfinished \"#, r#""unfinished \"#);
    }
}
