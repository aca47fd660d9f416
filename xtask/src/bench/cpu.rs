//! `bench cpu`: our artefacts and peers, interleaved in rounds, beside what the machine allows in the same rounds.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Tools, numbers};
use crate::args::Args;
use crate::{Result, process};

/// Tokens of a prefill.
const LEN: usize = 512;

/// One kind of work with all that was measured of it.
struct Row {
    shape: String,
    format: String,
    program: &'static str,
    threads: usize,
    /// Tokens per second.
    ours: Vec<f64>,
    /// Tokens per second that the machine allows, by the artefact's own count of operations and bytes.
    limits: Vec<f64>,
    peers: Vec<(String, Vec<f64>)>,
}

/// An artefact and what its programs cost for each token.
struct Built {
    shape: String,
    format: String,
    artefact: PathBuf,
    /// Operations and bytes of a prefill of [`LEN`] tokens, and of a step.
    prefill: [f64; 2],
    step: [f64; 2],
}

/// Runs `rounds` rounds of everything and prints the table. `--peers DIR` names a folder with `llama-bench`, at the top
/// or in `build-llama-gcc/bin`, and models in `gguf/SHAPE-TYPE.gguf`.
pub(super) fn run(tools: &Tools, folder: &Path, args: &Args) -> Result<bool> {
    let list = |name: &str, default: &str| -> Vec<String> {
        args.get(name).unwrap_or(default).split(',').map(str::to_owned).collect()
    };
    let rounds: usize = args.get("rounds").unwrap_or("3").parse()?;
    let steps = args.get("steps").unwrap_or("64");
    let threads: Vec<usize> =
        list("threads", "1,2").iter().map(|n| n.parse()).collect::<std::result::Result<_, _>>()?;
    let mut built = Vec::new();
    for shape in list("shape", "mamba-130m") {
        for format in list("weights", "f32,bf16,int8,int4") {
            built.push(build(tools, folder, &shape, &format)?);
        }
    }
    let peers = args.get("peers").map(Path::new);
    let mut rows: Vec<Row> = Vec::new();
    let mut machine = String::new();
    for round in 0..rounds.max(1) {
        for n in &threads {
            let [bytes, f32_rate, half_rate, byte_rate, _] = limits(tools, &built[0].artefact, *n)?;
            let line = format!(
                "round {}: {n} threads read {:.1} GB/s and do {:.0} GFLOP/s in f32, {:.0} in bf16 dots, {:.0} Gop/s in byte dots",
                round + 1,
                bytes / 1e9,
                f32_rate / 1e9,
                half_rate / 1e9,
                byte_rate / 1e9
            );
            eprintln!("{line}");
            writeln!(machine, "{line}")?;
            for b in &built {
                let ours = ours(tools, b, *n, steps)?;
                let theirs = match peers {
                    Some(dir) => llama(dir, b, *n, steps)?,
                    None => None,
                };
                for (i, program) in ["prefill", "step"].into_iter().enumerate() {
                    let rate = match b.format.as_str() {
                        "bf16" if half_rate > 0.0 => half_rate,
                        "int8" | "int4" if byte_rate > 0.0 => byte_rate,
                        _ => f32_rate,
                    };
                    let ([flops, moved], tokens) =
                        if i == 0 { (b.prefill, LEN as f64) } else { (b.step, 1.0) };
                    let limit = tokens / (flops / rate).max(moved / bytes);
                    let row = find(&mut rows, b, program, *n);
                    row.ours.push(ours[i]);
                    row.limits.push(limit);
                    if let Some(theirs) = &theirs {
                        match row.peers.iter_mut().find(|(name, _)| name == "llama.cpp") {
                            Some((_, values)) => values.push(theirs[i]),
                            None => row.peers.push(("llama.cpp".to_owned(), vec![theirs[i]])),
                        }
                    }
                    eprintln!("  {} {} {program}: {:.1} tokens/s", b.shape, b.format, ours[i]);
                }
            }
        }
    }
    let mut report = machine;
    report.push_str(&table(&rows));
    println!("{report}");
    if let Some(path) = args.get("append") {
        let mut text = fs::read_to_string(path)?;
        write!(text, "\n{report}")?;
        fs::write(path, text)?;
    }
    Ok(true)
}

fn build(tools: &Tools, folder: &Path, shape: &str, format: &str) -> Result<Built> {
    let model = folder.join(shape);
    if !model.join("config.json").is_file() {
        process::check(Command::new(&tools.synthetic).arg(&model).args([shape, "f32"]))?;
    }
    let artefact = folder.join(format!("{shape}-{format}.ssmc"));
    let mut compile = Command::new(&tools.ssmc);
    compile.arg("compile").arg(&model).arg("-o").arg(&artefact);
    compile.args(["--weights", format, "--target-cpu", "native", "--no-golden", "--quiet"]);
    process::capture(&mut compile)?;
    let mut cost = Command::new(&tools.runner);
    cost.arg(&artefact).args(["cost", "prefill", &LEN.to_string(), "cost", "step", "1"]);
    let said = String::from_utf8(process::capture(&mut cost)?.stdout)?;
    let (shape, format) = (shape.to_owned(), format.to_owned());
    Ok(Built {
        shape,
        format,
        artefact,
        prefill: numbers(&said, "cost\tprefill")?,
        step: numbers(&said, "cost\tstep")?,
    })
}

fn limits(tools: &Tools, artefact: &Path, threads: usize) -> Result<[f64; 5]> {
    let mut command = Command::new(&tools.runner);
    command.arg(artefact).args(["limits", &threads.to_string()]);
    numbers(&String::from_utf8(process::capture(&mut command)?.stdout)?, "limits")
}

/// Tokens per second of prefill and step.
fn ours(tools: &Tools, built: &Built, threads: usize, steps: &str) -> Result<[f64; 2]> {
    let mut command = Command::new(&tools.ssmc);
    command.arg("--json").arg("bench").arg(&built.artefact);
    command.args(["--no-profile", "--repetitions", "2", "--len", &LEN.to_string(), "--steps", steps]);
    command.args(["--threads", &threads.to_string()]);
    let said: Value = serde_json::from_slice(&process::capture(&mut command)?.stdout)?;
    let rate = |name: &str| -> Result<f64> {
        let programs = said["programs"].as_array().ok_or("ssmc bench: no programs")?;
        let program = programs.iter().find(|p| p["program"] == name);
        let rate = program.and_then(|p| p["tokens_per_second"].as_f64());
        Ok(rate.ok_or_else(|| format!("ssmc bench: no rate of {name}"))?)
    };
    Ok([rate("prefill")?, rate("step")?])
}

/// Tokens per second of llama.cpp on the same shape in the format like ours, if its model is there.
fn llama(dir: &Path, built: &Built, threads: usize, steps: &str) -> Result<Option<[f64; 2]>> {
    let like = match built.format.as_str() {
        "int8" => "q8_0",
        "int4" => "q4_0",
        other => other,
    };
    let model = dir.join("gguf").join(format!("{}-{like}.gguf", built.shape));
    let places = [dir.join("llama-bench"), dir.join("build-llama-gcc/bin/llama-bench")];
    let Some(program) = places.into_iter().find(|path| path.is_file()).filter(|_| model.is_file()) else {
        eprintln!("skipped: no llama-bench or no {} in {}", model.display(), dir.display());
        return Ok(None);
    };
    let mut command = Command::new(program);
    command.arg("-m").arg(&model).args(["-t", &threads.to_string(), "-r", "2", "-o", "jsonl"]);
    command.args(["-p", &LEN.to_string(), "-n", steps]);
    let said = String::from_utf8(process::capture(&mut command)?.stdout)?;
    let mut rates = [0.0; 2];
    for line in said.lines() {
        let test: Value = serde_json::from_str(line)?;
        let is_step = test["n_prompt"].as_u64() == Some(0);
        rates[usize::from(is_step)] = test["avg_ts"].as_f64().ok_or("llama-bench: no rate")?;
    }
    Ok(Some(rates))
}

fn find<'r>(rows: &'r mut Vec<Row>, built: &Built, program: &'static str, threads: usize) -> &'r mut Row {
    let is_it = |row: &Row| {
        row.shape == built.shape
            && row.format == built.format
            && row.program == program
            && row.threads == threads
    };
    let at = rows.iter().position(is_it).unwrap_or_else(|| {
        rows.push(Row {
            shape: built.shape.clone(),
            format: built.format.clone(),
            program,
            threads,
            ours: Vec::new(),
            limits: Vec::new(),
            peers: Vec::new(),
        });
        rows.len() - 1
    });
    &mut rows[at]
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n| work | threads | tokens/s, median (min..max) | of the limit | peer | ours over peer |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let spread = |values: &[f64]| {
            let (low, high) = values.iter().fold((f64::INFINITY, 0f64), |(l, h), x| (l.min(*x), h.max(*x)));
            format!("{:.1} ({low:.1}..{high:.1})", median(values))
        };
        // Fractions and ratios are of one round each, since the machine changes between rounds.
        let ratio =
            |others: &[f64]| median(&row.ours.iter().zip(others).map(|(x, y)| x / y).collect::<Vec<_>>());
        let (peer, over) = match row.peers.first() {
            Some((name, values)) => (format!("{name} {}", spread(values)), format!("{:.2}", ratio(values))),
            None => ("-".to_owned(), "-".to_owned()),
        };
        out.push_str(&format!(
            "| {} {}, {} | {} | {} | {:.0} % | {peer} | {over} |\n",
            row.shape,
            row.program,
            row.format,
            row.threads,
            spread(&row.ours),
            100.0 * ratio(&row.limits)
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_one_round() {
        let row = Row {
            shape: "m".into(),
            format: "int8".into(),
            program: "step",
            threads: 1,
            ours: vec![10.0, 20.0, 30.0],
            limits: vec![20.0, 40.0, 40.0],
            peers: vec![("llama.cpp".into(), vec![5.0, 5.0, 5.0])],
        };
        let text = table(&[row]);
        assert!(text.contains("| m step, int8 | 1 | 20.0 (10.0..30.0) | 50 % |"), "{text}");
        assert!(text.contains("| llama.cpp 5.0 (5.0..5.0) | 4.00 |"), "{text}");
    }

    #[test]
    fn medians() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[])), (2.0, 0.0));
    }
}
