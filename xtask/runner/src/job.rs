//! The jobs of a command line.

use std::collections::BTreeMap;
use std::path::Path;

use ssmc_npz::Array;

use crate::Error;

/// Token ids, rows of one length.
pub(crate) type Rows = Vec<Vec<u32>>;

/// How a sequence is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pieces {
    /// One step each.
    Steps,
    /// Random lengths from this seed.
    Random(u64),
}

/// One thing to do; see the crate documentation.
#[derive(Debug, PartialEq)]
pub(crate) enum Job {
    Launches,
    Limits { threads: usize },
    Run { inputs: BTreeMap<String, Array>, output: String },
    Greedy { tokens: usize, prompts: Rows },
    Cost { program: String, tokens: i64 },
    Load { max_len: usize },
    Move { level: String, steps: usize, prompts: Rows },
    Prefill { tokens: usize, max_len: usize, times: usize },
    Growth { tokens: usize, max_len: usize },
    Stream { pieces: Pieces, inputs: BTreeMap<String, Array>, output: String },
    Continue { steps: usize, ids: Rows, output: String },
}

impl Job {
    /// Reads the jobs and the files that they name.
    pub(crate) fn parse(args: &[String]) -> Result<Vec<Self>, Error> {
        let mut args = args.iter();
        let mut jobs = Vec::new();
        while let Some(verb) = args.next() {
            let mut argument = |what: &str| {
                args.next().cloned().ok_or_else(|| Error::Usage(format!("{verb}: expected {what}")))
            };
            jobs.push(match verb.as_str() {
                "launches" => Self::Launches,
                "limits" => Self::Limits { threads: number(&argument("a number of threads")?)? },
                "run" => Self::Run { inputs: read(&argument("IN.npz")?)?, output: argument("OUT.npz")? },
                "greedy" => Self::Greedy {
                    tokens: number(&argument("a number of tokens")?)?,
                    prompts: rows(&argument("prompts")?)?,
                },
                "cost" => Self::Cost {
                    program: argument("a program")?,
                    tokens: number(&argument("a number of tokens")?)? as i64,
                },
                "move" => Self::Move {
                    level: argument("a level")?,
                    steps: number(&argument("a number of steps")?)?,
                    prompts: rows(&argument("prompts")?)?,
                },
                "load" => Self::Load { max_len: number(&argument("a number of tokens")?)? },
                "prefill" => Self::Prefill {
                    tokens: number(&argument("a number of tokens")?)?,
                    max_len: number(&argument("the tokens of a block")?)?,
                    times: number(&argument("a number of calls")?)?,
                },
                "growth" => Self::Growth {
                    tokens: number(&argument("a number of tokens")?)?,
                    max_len: number(&argument("the tokens of a block")?)?,
                },
                "stream" => Self::Stream {
                    pieces: match argument("steps or a seed")?.as_str() {
                        "steps" => Pieces::Steps,
                        seed => Pieces::Random(number(seed)? as u64),
                    },
                    inputs: read(&argument("IN.npz")?)?,
                    output: argument("OUT.npz")?,
                },
                "continue" => Self::Continue {
                    steps: number(&argument("a number of steps")?)?,
                    ids: input_ids(&read(&argument("IN.npz")?)?)?,
                    output: argument("OUT.npz")?,
                },
                other => return Err(Error::Usage(format!("unknown job {other:?}"))),
            });
        }
        Ok(jobs)
    }
}

fn read(path: &str) -> Result<BTreeMap<String, Array>, Error> {
    ssmc_npz::read(Path::new(path)).map_err(|source| Error::Npz { path: path.to_owned(), source })
}

fn number(text: &str) -> Result<usize, Error> {
    text.parse().map_err(|_| Error::Usage(format!("expected a number, found {text:?}")))
}

fn rows(text: &str) -> Result<Rows, Error> {
    let token =
        |text: &str| text.parse().map_err(|_| Error::Usage(format!("expected a token id, found {text:?}")));
    let rows: Rows =
        text.split(';').map(|row| row.split_whitespace().map(token).collect()).collect::<Result<_, _>>()?;
    if rows.iter().any(|row| row.is_empty() || row.len() != rows[0].len()) {
        return Err(Error::Usage("prompts must be rows of one length, at least 1".into()));
    }
    Ok(rows)
}

/// The rows of the array `input_ids`.
fn input_ids(arrays: &BTreeMap<String, Array>) -> Result<Rows, Error> {
    let fault = |what: &str| Error::Array(format!("input_ids: {what}"));
    let ids = arrays.get("input_ids").ok_or_else(|| fault("not in the file"))?;
    let [batch, len] = ids.shape[..] else { return Err(fault("expected [batch, seq_len]")) };
    if batch * len == 0 {
        return Err(fault("no tokens"));
    }
    let tokens: Vec<u32> = ids.to_f64().into_iter().map(|id| id as u32).collect();
    Ok(tokens.chunks_exact(len).map(<[u32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Vec<Job>, Error> {
        Job::parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn jobs_are_read_in_order() {
        let jobs = parse(&["launches", "greedy", "3", "1 2;3 4"]).unwrap();
        let greedy = Job::Greedy { tokens: 3, prompts: vec![vec![1, 2], vec![3, 4]] };
        assert_eq!(jobs, [Job::Launches, greedy]);
    }

    #[test]
    fn bad_jobs_are_usage_errors() {
        for args in [&["dance"][..], &["greedy"], &["greedy", "x", "1"], &["greedy", "1", "1 2;3"]] {
            assert!(matches!(parse(args), Err(Error::Usage(_))), "{args:?}");
        }
        assert!(matches!(parse(&["run", "/nowhere.npz", "y"]), Err(Error::Npz { .. })));
    }
}
