//! `config.json`: typed access whose errors name the file and the key.

use super::fault::{Fault, Faults};
use super::json;
use crate::error::ImportError;
use serde_json::Value;
use std::path::{Path, PathBuf};

const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The largest size that a config may give, so that no product of a few of them overflows.
pub(super) const MAX_SIZE: u64 = 1 << 28;

/// A parsed `config.json`. Keys may be dotted paths into nested objects; a member that is `null` counts as absent.
#[derive(Debug)]
pub(super) struct Config {
    file: PathBuf,
    root: Value,
}

impl Config {
    /// Reads `config.json` of the folder.
    pub(super) fn open(dir: &Path, faults: &mut Faults) -> Result<Option<Self>, ImportError> {
        Self::read(dir.join("config.json"), faults)
    }

    /// Reads a file of the same form that need not be there.
    pub(super) fn open_if_there(file: &Path, faults: &mut Faults) -> Result<Option<Self>, ImportError> {
        if file.exists() { Self::read(file.to_owned(), faults) } else { Ok(None) }
    }

    fn read(file: PathBuf, faults: &mut Faults) -> Result<Option<Self>, ImportError> {
        Ok(match json::read(&file, MAX_CONFIG_BYTES, faults)? {
            Some(root @ Value::Object(_)) => Some(Self { file, root }),
            Some(other) => {
                let found = format!("the value {}", json::brief(&other));
                faults.push(&file, Fault::NotJson { found });
                None
            }
            None => None,
        })
    }

    /// Where the config was read.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The member, unless it is absent or `null`.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let value = key.split('.').try_fold(&self.root, |value, part| value.get(part))?;
        (!value.is_null()).then_some(value)
    }

    /// A positive size; `None` if absent. A wrong type or range is reported and gives `None`.
    pub(super) fn size(&self, key: &str, faults: &mut Faults) -> Option<usize> {
        self.typed(key, "an integer from 1 to 2^28", faults, |value| {
            let size = integer(value).filter(|n| (1..=MAX_SIZE).contains(n))?;
            usize::try_from(size).ok()
        })
    }

    /// A positive size; `None` if absent or the word `auto`.
    pub(super) fn size_or_auto(&self, key: &str, faults: &mut Faults) -> Option<usize> {
        if self.get(key).and_then(Value::as_str) == Some("auto") {
            return None;
        }
        self.size(key, faults)
    }

    /// A flag; `None` if absent.
    pub(super) fn flag(&self, key: &str, faults: &mut Faults) -> Option<bool> {
        self.typed(key, "true or false", faults, Value::as_bool)
    }

    /// A string; `None` if absent.
    pub(super) fn text(&self, key: &str, faults: &mut Faults) -> Option<&str> {
        self.typed(key, "a string", faults, Value::as_str)
    }

    /// A finite positive number; `None` if absent.
    pub(super) fn positive(&self, key: &str, faults: &mut Faults) -> Option<f64> {
        self.typed(key, "a finite positive number", faults, |v| {
            number(v).filter(|x| x.is_finite() && *x > 0.0)
        })
    }

    /// A pair of numbers in ascending order, which may be infinite; `None` if absent.
    pub(super) fn interval(&self, key: &str, faults: &mut Faults) -> Option<(f64, f64)> {
        self.typed(key, "two numbers in ascending order", faults, |value| {
            let [low, high] = value.as_array()?.as_slice() else { return None };
            let (low, high) = (number(low)?, number(high)?);
            (low <= high).then_some((low, high))
        })
    }

    /// Token ids, given as one integer or a list; empty if absent.
    pub(super) fn token_ids(&self, key: &str, faults: &mut Faults) -> Vec<u32> {
        let ids = self.typed(key, "a token id or a list of token ids", faults, |value| {
            let id = |v: &Value| integer(v).and_then(|id| u32::try_from(id).ok());
            match value {
                Value::Array(ids) => ids.iter().map(id).collect(),
                one => id(one).map(|id| vec![id]),
            }
        });
        ids.unwrap_or_default()
    }

    /// Reports a member whose value is understood and not supported.
    pub(super) fn unsupported(&self, key: &str, expected: impl Into<String>, faults: &mut Faults) {
        let found = self.get(key).map_or_else(|| "nothing".to_owned(), json::brief);
        let (key, expected) = (key.to_owned(), expected.into());
        faults.push(&self.file, Fault::UnsupportedConfig { key, expected, found });
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        faults: &mut Faults,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(key)?;
        let result = read(value);
        if result.is_none() {
            let (key, expected, found) = (key.to_owned(), expected.to_owned(), json::brief(value));
            faults.push(&self.file, Fault::BadKey { key, expected, found });
        }
        result
    }
}

/// An unsigned integer, which some writers spell `2.0`.
fn integer(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let x = value.as_f64()?;
        (x.fract() == 0.0 && (0.0..=MAX_SIZE as f64).contains(&x)).then_some(x as u64)
    })
}

/// A number, which may be spelled `{"__float__": "Infinity"}` (transformers 5) or as a word (Python's own JSON).
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(word) => match word.as_str() {
            "Infinity" | "inf" => Some(f64::INFINITY),
            "-Infinity" | "-inf" => Some(f64::NEG_INFINITY),
            "NaN" | "nan" => Some(f64::NAN),
            _ => None,
        },
        Value::Object(fields) if fields.len() == 1 => {
            fields.get("__float__").filter(|v| v.is_string()).and_then(number)
        }
        _ => None,
    }
}
