//! The backend tests of the `onnx` package: every model compiled, run in a process of its own, and compared.

mod archive;
mod list;
#[cfg(feature = "oracle")]
mod peer;
mod proto;
mod report;
mod run;
mod twins;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use regex::Regex;

use crate::args::Args;
use crate::{Result, process};
use archive::Test;
use report::{Counts, Row};
use run::{Tools, Verdict};

#[cfg(feature = "oracle")]
pub(crate) use peer::{PEER, main as peer};

const OPTIONS: &[&str] = &["wheel", "filter", "json", "bin", "runner", "profile", "jobs", "bless", "twins"];

/// Runs the tests; whether the results are those of the list.
pub(crate) fn main(args: &[String]) -> Result<bool> {
    let args = Args::parse(args, OPTIONS)?;
    if !args.words.is_empty() {
        return Err("expected no arguments but options".into());
    }
    let bless = match args.get("bless") {
        None => false,
        Some("all") if args.get("filter").is_none() && cfg!(feature = "oracle") => true,
        Some("all") if args.get("filter").is_none() => {
            return Err(
                "--bless: the table has a column for tract; use `cargo run -p xtask --features oracle --`"
                    .into(),
            );
        }
        Some(_) => return Err("--bless: expected all, and no --filter".into()),
    };
    let wheel = archive::wheel(args.get("wheel"))?;
    let tests = archive::tests(&wheel, &Regex::new(args.get("filter").unwrap_or(""))?)?;
    if tests.is_empty() {
        return Err(format!("no test in {} matches", wheel.display()).into());
    }
    let profile = args.get("profile").unwrap_or("dev");
    let program = |given: Option<&str>, package: &str| match given {
        Some(path) => Ok(PathBuf::from(path)),
        None => process::build(package, package, profile, &[]),
    };
    let tools = Tools {
        ssmc: program(args.get("bin"), "ssmc")?,
        runner: program(args.get("runner"), "ssmc-runner")?,
    };
    let threads = match args.get("jobs") {
        Some(n) => n.parse()?,
        None => std::thread::available_parallelism()?.get(),
    };
    if let Some(pattern) = args.get("twins") {
        return twins::compare(&tests, &tools, &Regex::new(pattern)?);
    }
    let results = run_all(&tests, threads, |test| run::run(test, &tools));
    let ops = operators(&tests);
    #[cfg(feature = "oracle")]
    let peers = run_all(&tests, threads, peer::run);
    #[cfg(not(feature = "oracle"))]
    let peers: BTreeMap<String, Verdict> = BTreeMap::new();
    let row = |(name, verdict): (&String, &Verdict)| Row {
        op: ops[name].clone(),
        name: name.clone(),
        verdict: verdict.clone(),
        tract: peers.get(name).cloned(),
    };
    let rows: Vec<Row> = results.iter().map(row).collect();
    for row in &rows {
        match &row.verdict {
            Verdict::Fail(reason) => println!("fail         {}\n             {reason}", row.name),
            Verdict::Unsupported(reason) => println!("unsupported  {}\n             {reason}", row.name),
            Verdict::OutOfScope(reason) => println!("out of scope {} ({reason})", row.name),
            Verdict::Pass | Verdict::PassGiven => {}
        }
    }
    print!("{}", report::table(&rows));
    match args.get("json") {
        Some("-") => println!("{:#}", report::json(&rows)),
        Some(path) => fs::write(path, format!("{:#}\n", report::json(&rows)))?,
        None => {}
    }
    if bless {
        list::write(&results)?;
        report::write(&rows)?;
    }
    let surprises = list::surprises(&list::read()?, &results);
    for surprise in &surprises {
        println!("{surprise}");
    }
    let counts = Counts::of(&rows);
    println!("{} passed, {} failed, {} unsupported", counts.passed, counts.failed, counts.unsupported);
    Ok(surprises.is_empty())
}

/// Runs tests on several threads.
fn run_all(
    tests: &[Test],
    threads: usize,
    run: impl Fn(&Test) -> Verdict + Sync,
) -> BTreeMap<String, Verdict> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = run(test);
                    let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    results.insert(test.name.clone(), verdict);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The operator that each test is about: that of its one node, or that of the test whose expansion it is.
fn operators(tests: &[Test]) -> BTreeMap<String, String> {
    let single: BTreeMap<&str, String> = tests
        .iter()
        .filter_map(|test| match proto::Model::parse(test.model.clone()).ok()?.nodes.as_slice() {
            [(_, op)] => Some((test.name.as_str(), op.clone())),
            _ => None,
        })
        .collect();
    tests
        .iter()
        .map(|test| {
            let base = test.name.split("_expanded").next().unwrap_or(&test.name);
            let op = single.get(base).or_else(|| single.get(test.name.as_str()));
            (test.name.clone(), op.cloned().unwrap_or_else(|| "(several operators)".into()))
        })
        .collect()
}
