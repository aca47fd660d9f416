//! `ssmc explain`

use crate::failure::{Failure, Outcome};
use crate::model::Job;
use crate::options::CompileArgs;
use crate::output::{print, print_json};
use serde_json::json;
use ssmc::{Between, Norm, Reached};
use ssmc_ir::{Graph, Stage, Weights};
use ssmc_passes::bisect::Counter;
use ssmc_passes::egraph::{self, Explanation, RewriteReport};
use ssmc_passes::norms::Scaled;
use ssmc_passes::partition::partition;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// Replay every step on random tensors in the reference interpreter
    #[arg(long)]
    check: bool,
    /// The program to explain
    #[arg(long, value_name = "NAME", default_value = "forward")]
    program: String,
    #[command(flatten)]
    compile: CompileArgs,
}

/// Seed of the tensors of a replay.
const SEED: u64 = 1;

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let mut job = Job::new(&args.model, &args.compile)?;
    let model = job.import()?;
    let mut raised: Option<(Graph, Weights)> = None;
    let mut known = Vec::new();
    let mut used = 0;
    job.compile_until(&model, Stage::Raised, &mut |reached| match reached {
        Reached::Graph { program, stage: Stage::Raised, graph, weights } => {
            known.push(program.to_owned());
            if program == args.program {
                raised = Some((graph.clone(), weights.clone()));
            }
        }
        Reached::Counted(counter) => used = counter.taken(),
        _ => {}
    })?;
    job.trace.write()?;
    let counter = || Counter::new(args.compile.bisect_limit.map(|limit| limit.saturating_sub(used)));
    let options = job.compiler.rewrite_options(&args.program, &counter());
    let (raised, weights) = raised.ok_or_else(|| {
        Failure::usage(format!("no program {}, expected one of {}", args.program, known.join(", ")))
    })?;
    job.progress.say("rewriting");
    let failed = |error| Failure::from(ssmc::Error::from(error)).in_file(&args.model);
    let rewritten = egraph::rewrite(&raised, &options).map_err(failed)?;
    let report = rewritten.report;
    let gpu = on_gpus(&job, &rewritten.graph, weights)?;
    job.progress.say("proving");
    let options = job.compiler.rewrite_options(&args.program, &counter());
    let explanations = egraph::explain(&raised, &options).map_err(failed)?;
    let mut replayed = Vec::new();
    if args.check {
        job.progress.say("replaying");
        job.progress.expect(explanations.len());
        for explanation in &explanations {
            replayed.push(egraph::check(explanation, SEED).map_err(|error| error.to_string()));
            job.progress.advance();
        }
    }
    drop(job);
    if json {
        print_json("explain", to_json(args, (&report, &gpu), &explanations, &replayed))?;
    } else {
        print(&text((&report, &gpu), &explanations, &replayed))?;
    }
    let faults: Vec<&String> = replayed.iter().filter_map(|r| r.as_ref().err()).collect();
    match faults.first() {
        None => Ok(()),
        Some(first) => {
            Err(Failure::check(format!("{} explanations do not hold, the first: {first}", faults.len())))
        }
    }
}

/// Of the plan for GPUs, if it is another one, the types of values between kernels and what became of norms.
fn on_gpus(job: &Job<'_>, graph: &Graph, mut weights: Weights) -> Outcome<OnGpus> {
    let failed = |error: ssmc::Error| Failure::from(error).in_file(job.path);
    let plan = partition(graph).map_err(|error| failed(error.into()))?;
    let plan = job.compiler.gpu_plan(&plan, &mut weights, &mut Scaled::default()).map_err(failed)?;
    Ok(plan.map(|plan| (plan.between, plan.norms)).unwrap_or_default())
}

type OnGpus = (Vec<Between>, Vec<Norm>);

type Replayed = Result<usize, String>;

fn text(
    (report, (between, norms)): (&RewriteReport, &OnGpus),
    explanations: &[Explanation],
    replayed: &[Replayed],
) -> String {
    let mut text = String::new();
    for (i, explanation) in explanations.iter().enumerate() {
        text.push_str(&format!("{} -> {}\n", explanation.place, explanation.fused.join(", ")));
        for step in &explanation.steps {
            let arrow = if step.is_backward { "<-" } else { "->" };
            text.push_str(&format!("  {arrow} {}: {}\n", step.rule, step.term));
        }
        match replayed.get(i) {
            None => {}
            Some(Ok(n)) => text.push_str(&format!("  replayed: {n} steps hold\n")),
            Some(Err(fault)) => text.push_str(&format!("  replayed: {fault}\n")),
        }
    }
    text.push_str("fused scans\n");
    for scan in &report.scans {
        let absorbed: Vec<String> = scan.absorbed.iter().map(|a| format!("{} x{}", a.op, a.count)).collect();
        text.push_str(&format!("  {} at {}: {}\n", scan.op, scan.place, absorbed.join(", ")));
    }
    text.push_str("outside\n");
    for outside in &report.outside {
        text.push_str(&format!("  {} at {}: {}\n", outside.what, outside.place, outside.reason));
    }
    text.push_str("rules\n");
    for (rule, n) in &report.fired {
        text.push_str(&format!("  {rule} x{n}\n"));
    }
    if !between.is_empty() {
        text.push_str("between kernels\n");
    }
    for value in between {
        let Between { place, op, dtype, reason } = value;
        text.push_str(&format!("  {} {op} at {place}: {reason}\n", dtype.name()));
    }
    if !norms.is_empty() {
        text.push_str("norms\n");
    }
    for Norm { place, op, kept } in norms {
        let fate = kept.map_or(String::from("folded into products"), |why| format!("left as it is, {why}"));
        text.push_str(&format!("  {op} at {place}: {fate}\n"));
    }
    text
}

fn to_json(
    args: &Args,
    (report, (between, norms)): (&RewriteReport, &OnGpus),
    explanations: &[Explanation],
    replayed: &[Replayed],
) -> serde_json::Value {
    let chains: Vec<_> = explanations
        .iter()
        .enumerate()
        .map(|(i, e)| {
            let steps: Vec<_> = e
                .steps
                .iter()
                .map(|s| json!({"rule": s.rule, "backward": s.is_backward, "term": s.term}))
                .collect();
            let replay = replayed.get(i).map(|r| match r {
                Ok(n) => json!({"passed": true, "steps": n}),
                Err(fault) => json!({"passed": false, "fault": fault}),
            });
            json!({"place": e.place, "fused": e.fused, "steps": steps, "replay": replay})
        })
        .collect();
    let scans: Vec<_> = report
        .scans
        .iter()
        .map(|s| {
            let absorbed: Vec<_> = s.absorbed.iter().map(|a| json!({"op": a.op, "count": a.count})).collect();
            json!({"op": s.op, "place": s.place, "absorbed": absorbed})
        })
        .collect();
    let outside: Vec<_> = report
        .outside
        .iter()
        .map(|o| json!({"what": o.what, "place": o.place, "reason": o.reason}))
        .collect();
    let between: Vec<_> = between
        .iter()
        .map(|v| json!({"op": v.op, "place": v.place, "dtype": v.dtype.name(), "reason": v.reason}))
        .collect();
    let norms: Vec<_> = norms.iter().map(|n| json!({"op": n.op, "place": n.place, "kept": n.kept})).collect();
    json!({
        "between": between, "norms": norms, "program": args.program, "explanations": chains, "scans": scans, "outside": outside,
        "fired": report.fired, "segments": report.segments, "distinct_segments": report.distinct,
    })
}
