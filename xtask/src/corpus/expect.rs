//! What a compiler must recognise in a case, against what the launch list says.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::Result;

/// A special class and the more general one that it satisfies too. A diagonal scan is a matrix-state scan whose values
/// have one element, as the state of a head that is a vector.
const SPECIAL: &[(&str, &str)] = &[
    ("s6", "diag"),
    ("ssd", "matrix"),
    ("diag", "matrix"),
    ("step_s6", "step_diag"),
    ("step_ssd", "step_matrix"),
    ("step_diag", "step_matrix"),
];

/// Classes that need not be raised yet: graphs with them have to import, compile and compute right. What is missing is
/// shown beside what was found.
const NOT_RAISED_YET: &[&str] = &["wkv", "matrix", "step_wkv", "step_matrix"];

/// Numbers of recurrences by class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Recurrences(pub(super) BTreeMap<String, u64>);

impl fmt::Display for Recurrences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(class, n)| format!("{class}:{n}")).collect();
        f.write_str(if parts.is_empty() { "none".to_owned() } else { parts.join(" ") }.as_str())
    }
}

/// The structure that a launch list shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Structure {
    pub(super) recurrences: Recurrences,
    pub(super) generic_loops: u64,
}

impl Structure {
    /// Reads the `launch` lines of the runner.
    pub(super) fn parse(output: &str) -> Result<Self> {
        let mut structure = Self::default();
        for line in output.lines().filter_map(|line| line.strip_prefix("launch\t")) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [class, count, generic] = fields[..] else {
                return Err(format!("runner: bad launch line {line:?}").into());
            };
            if !class.is_empty() {
                *structure.recurrences.0.entry(class.to_owned()).or_default() += count.parse::<u64>()?;
            }
            structure.generic_loops += u64::from(generic.parse::<bool>()?);
        }
        Ok(structure)
    }
}

/// The entry `expect` of a case.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expect {
    recurrences: Recurrences,
    generic_loops: u64,
}

impl Expect {
    pub(super) fn parse(json: &Value) -> Result<Self> {
        let fault = || "case.json: expect: bad recurrences or generic_loops";
        let classes = json["recurrences"].as_object().ok_or_else(fault)?;
        let recurrences = classes
            .iter()
            .map(|(class, count)| Ok((class.clone(), count.as_u64().ok_or_else(fault)?)))
            .collect::<Result<_>>()?;
        let generic_loops = json["generic_loops"].as_u64().ok_or_else(fault)?;
        Ok(Self { recurrences: Recurrences(recurrences), generic_loops })
    }

    /// Why `found` is not what is expected, if so. A special class counts as the general one.
    pub(super) fn fault(&self, found: &Structure) -> Option<String> {
        if found.generic_loops > self.generic_loops {
            return Some(format!(
                "expected {} generic loops, found {}",
                self.generic_loops, found.generic_loops
            ));
        }
        let (mut missing, rest) = self.compare(found);
        missing.0.retain(|class, _| !NOT_RAISED_YET.contains(&class.as_str()));
        let settled = missing.0.is_empty() && rest.0.is_empty();
        (!settled).then(|| format!("expected recurrences {}, found {}", self.recurrences, found.recurrences))
    }

    /// The recurrences that are expected and not found.
    pub(super) fn missing(&self, found: &Structure) -> Recurrences {
        self.compare(found).0
    }

    /// What is missing, and what is found beyond what is expected.
    fn compare(&self, found: &Structure) -> (Recurrences, Recurrences) {
        let (mut expected, mut rest) = (self.recurrences.0.clone(), found.recurrences.0.clone());
        let classes: Vec<String> = expected.keys().cloned().collect();
        for class in &classes {
            settle(&mut expected, class, &mut rest, class);
        }
        for (special, general) in SPECIAL {
            settle(&mut expected, general, &mut rest, special);
        }
        for counts in [&mut expected, &mut rest] {
            counts.retain(|_, count| *count > 0);
        }
        (Recurrences(expected), Recurrences(rest))
    }
}

/// Counts as many recurrences of class `found` as class `expected` can take.
fn settle(expected: &mut BTreeMap<String, u64>, class: &str, rest: &mut BTreeMap<String, u64>, found: &str) {
    if let (Some(wanted), Some(present)) = (expected.get_mut(class), rest.get_mut(found)) {
        let settled = (*wanted).min(*present);
        *wanted -= settled;
        *present -= settled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(classes: &[(&str, u64)]) -> Recurrences {
        Recurrences(classes.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect())
    }

    #[track_caller]
    fn check(expected: &[(&str, u64)], found: &[(&str, u64)], fits: bool) {
        let expect = Expect { recurrences: counts(expected), generic_loops: 0 };
        let found = Structure { recurrences: counts(found), generic_loops: 0 };
        assert_eq!(expect.fault(&found).is_none(), fits, "{:?}", expect.fault(&found));
    }

    #[test]
    fn special_classes_satisfy_general_ones() {
        check(&[("s6", 3)], &[("s6", 3)], true);
        check(&[("diag", 3)], &[("s6", 2), ("diag", 1)], true);
        check(&[("diag", 1), ("s6", 1)], &[("s6", 2)], true);
        check(&[("matrix", 2), ("diag", 1)], &[("ssd", 2), ("s6", 1)], true);
        check(&[("matrix", 1)], &[("diag", 1)], true);
        check(&[], &[], true);
    }

    #[test]
    fn some_classes_need_not_be_raised() {
        check(&[("matrix", 2)], &[], true);
        check(&[("wkv", 2)], &[("wkv", 1)], true);
        let expect = Expect { recurrences: counts(&[("wkv", 2)]), generic_loops: 0 };
        let found = Structure { recurrences: counts(&[("wkv", 1)]), generic_loops: 0 };
        assert_eq!(expect.missing(&found), counts(&[("wkv", 1)]));
    }

    #[test]
    fn differences_are_faults() {
        check(&[("s6", 3)], &[("s6", 2)], false);
        check(&[("s6", 3)], &[("s6", 4)], false);
        check(&[("s6", 1)], &[("diag", 1)], false);
        check(&[("s6", 1)], &[("s6", 1), ("ssd", 1)], false);
        check(&[("matrix", 1)], &[("s6", 1)], false);
        check(&[("wkv", 2), ("s6", 1)], &[("wkv", 2)], false);
        let expect = Expect { recurrences: counts(&[]), generic_loops: 1 };
        let found = |generic_loops| Structure { recurrences: counts(&[]), generic_loops };
        assert_eq!(expect.fault(&found(1)), None);
        assert!(expect.fault(&found(2)).unwrap().contains("generic loops"));
    }

    #[test]
    fn launch_lines_are_counted() {
        let structure =
            Structure::parse("launch\ts6\t2\tfalse\nran\t0.1\nlaunch\t\t0\ttrue\nlaunch\ts6\t1\tfalse\n");
        let expected = Structure { recurrences: counts(&[("s6", 3)]), generic_loops: 1 };
        assert_eq!(structure.unwrap(), expected);
        assert!(Structure::parse("launch\ts6\t2").is_err());
    }
}
