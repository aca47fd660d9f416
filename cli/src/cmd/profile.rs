//! `ssmc profile`

use super::workload::{self, Profile, Total, Workload, WorkloadArgs};
use crate::failure::{Failure, Outcome};
use crate::model;
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{print, print_json, table};
use crate::session;
use serde_json::{Value, json};
use ssmc_runtime::{LaunchProfile, MachineRates};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Only this program [default: prefill and step of a language model, else forward]
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// How often each program is run; the median of each launch counts
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// List every launch, in order, with what it computes and where that comes from
    #[arg(long)]
    launches: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    if args.repetitions == 0 {
        return Err(Failure::usage("--repetitions must be at least 1"));
    }
    let mut opened = model::open(&args.model, &args.compile.to_run(&args.session))?;
    let names = match &args.program {
        Some(name) => vec![name.as_str()],
        None => workload::programs(&opened.artifact).to_vec(),
    };
    let mut session = args.workload.session(&opened.artifact, &args.session, &names)?;
    let mut profiles = Vec::new();
    for name in names {
        let mut workload = Workload::new(&args.workload, &opened.artifact, &mut session, name)?;
        let runs =
            (0..args.repetitions).map(|_| workload.profile(&mut session)).collect::<Outcome<Vec<_>>>()?;
        let profile = medians(&runs);
        opened.trace.launches(name, profile.start, &profile.launches);
        profiles.push((name, profile.launches));
    }
    opened.trace.write()?;
    let gpu = workload::gpu(&mut session)?;
    let rates = workload::rates(&session, gpu.as_ref())?;
    let (level, threads) = (session.level(), session.n_threads());
    let WorkloadArgs { len, batch } = args.workload;
    if json {
        let programs: Vec<Value> =
            profiles.iter().map(|(name, launches)| to_json(args, name, launches, Some(&rates))).collect();
        return print_json(
            "profile",
            json!({
                "level": level, "threads": threads, "batch": batch, "len": len,
                "machine": workload::rates_json(Some(&rates)), "gpu": workload::gpu_json(gpu.as_ref()),
                "gpu_code": session::code_json(&session), "cublaslt": session.cublaslt(),
                "programs": programs,
            }),
        );
    }
    let mut text = format!(
        "{level}, {threads} threads, batch {batch}, length {len}\n{}\n",
        workload::describe(&rates, gpu.as_ref())
    );
    for (name, launches) in &profiles {
        text.push_str(&report(args, name, launches, Some(&rates)));
    }
    print(&text)
}

/// The launches of several runs of one program, each with the median of its times.
fn medians(runs: &[Profile]) -> Profile {
    let mut profile = runs[0].clone();
    for (i, launch) in profile.launches.iter_mut().enumerate() {
        let mut times: Vec<_> = runs.iter().map(|run| run.launches[i].time).collect();
        times.sort();
        launch.time = times[times.len() / 2];
    }
    profile
}

fn report(args: &Args, name: &str, launches: &[LaunchProfile], rates: Option<&MachineRates>) -> String {
    let all = workload::sum(launches, rates);
    let mut cells = all.cells(all.seconds, rates);
    // Its share of itself.
    cells.remove(1);
    let mut text = format!("\n{name}: {} launches, {}\n", all.launches, cells.join(", "));
    text.push_str(&workload::products(launches));
    text.push_str(&workload::kernels_table(launches, rates));
    if args.launches {
        let rows: Vec<Vec<String>> = launches
            .iter()
            .map(|launch| {
                let mut row = vec![format!("  {}", launch.launch), launch.kernel.clone()];
                row.extend(single(launch, rates).cells(all.seconds, rates));
                row.extend([launch.recurrence.clone(), launch.nodes.join(" "), launch.locations.join(" ")]);
                row
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text
}

fn single(launch: &LaunchProfile, rates: Option<&MachineRates>) -> Total {
    workload::sum(std::slice::from_ref(launch), rates)
}

fn to_json(args: &Args, name: &str, launches: &[LaunchProfile], rates: Option<&MachineRates>) -> Value {
    let mut object = workload::sum(launches, rates).json(rates);
    object["program"] = name.into();
    object["kernels"] = workload::kernels_json(launches, rates).into();
    if args.launches {
        let rows = launches.iter().map(|launch| {
            let mut row = single(launch, rates).json(rates);
            row["launch"] = launch.launch.into();
            row["kernel"] = launch.kernel.as_str().into();
            row["by_library"] = launch.by_library.into();
            row["grid"] = launch.grid.into();
            row["recurrence"] = launch.recurrence.as_str().into();
            row["nodes"] = launch.nodes.clone().into();
            row["locations"] = launch.locations.clone().into();
            row
        });
        object["by_launch"] = rows.collect::<Vec<_>>().into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn each_launch_has_its_own_median() {
        let launch = |milliseconds| LaunchProfile {
            launch: 0,
            kernel: "k".to_owned(),
            by_library: false,
            nodes: Vec::new(),
            locations: Vec::new(),
            recurrence: String::new(),
            grid: 1,
            time: Duration::from_millis(milliseconds),
            flops: None,
            bytes: None,
        };
        let run = |a, b| Profile { start: Instant::now(), launches: vec![launch(a), launch(b)] };
        let found = medians(&[run(1, 9), run(3, 7), run(2, 8)]);
        assert_eq!(found.launches.iter().map(|l| l.time.as_millis()).collect::<Vec<_>>(), [2, 8]);
    }
}
