//! What `bench` and `profile` run: the programs of an artefact on random inputs, and what their launches took.

use super::{language, matrix};
use crate::failure::{Failure, Outcome};
use crate::options::SessionArgs;
use crate::output::table;
use crate::session;
use crate::tensors;
use serde_json::{Value, json};
use ssmc::Rng;
use ssmc_artifact::Program;
use ssmc_runtime::{Artifact, LaunchProfile, MachineRates, Session, State, Tensor};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Sizes of the random inputs.
#[derive(clap::Args, Debug)]
pub(crate) struct WorkloadArgs {
    /// Length of the sequence that is read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub(crate) len: usize,
    /// Sequences at once
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
}

const SEED: u64 = 1;

/// The programs that tell how fast a model is.
pub(crate) fn programs(artifact: &Artifact) -> &'static [&'static str] {
    match language::require_language_model(artifact.manifest()) {
        Ok(_) => &["prefill", "step"],
        Err(_) => &["forward"],
    }
}

impl WorkloadArgs {
    /// A session that has room for these programs at these sizes.
    pub(crate) fn session(
        &self,
        artifact: &Artifact,
        args: &SessionArgs,
        names: &[&str],
    ) -> Outcome<Session> {
        if self.len == 0 || self.batch == 0 {
            return Err(Failure::usage("--len and --batch must be at least 1"));
        }
        let mut options = args.options(self.batch, self.len);
        for name in names {
            let (program, inputs) = self.inputs(artifact, name)?;
            tensors::fit(&mut options, artifact.manifest(), program, &inputs);
        }
        session::open(artifact, &options)
    }

    fn inputs<'a>(&self, artifact: &'a Artifact, name: &str) -> Outcome<(&'a Program, tensors::Tensors)> {
        let manifest = artifact.manifest();
        let program = manifest
            .programs
            .iter()
            .find(|p| p.name == name)
            .ok_or_else(|| Failure::input(format!("the artefact has no program {name}")))?;
        let inputs = tensors::random(manifest, program, self.batch, self.len, &mut Rng::new(SEED))?;
        Ok((program, inputs))
    }
}

/// One program with its inputs, and its state if it has one.
pub(crate) struct Workload {
    name: String,
    inputs: Vec<(String, Tensor)>,
    state: Option<State>,
    tokens: u64,
    /// Tokens of one call, those of all sequences counted.
    pub(crate) tokens_per_call: usize,
}

impl Workload {
    /// The program with random inputs, called once to warm up.
    pub(crate) fn new(
        args: &WorkloadArgs,
        artifact: &Artifact,
        session: &mut Session,
        name: &str,
    ) -> Outcome<Self> {
        let (program, inputs) = args.inputs(artifact, name)?;
        let buffers = inputs.iter().map(|(name, t)| Ok((name.clone(), tensors::to_buffer(t)?)));
        let tokens = if name == "step" { 1 } else { args.len as u64 };
        let mut workload = Self {
            name: name.to_owned(),
            inputs: buffers.collect::<Outcome<_>>()?,
            state: if program.stateful { Some(session.new_state(args.batch)?) } else { None },
            tokens,
            tokens_per_call: args.batch * tokens as usize,
        };
        workload.call(session)?;
        Ok(workload)
    }

    /// Runs the program once more. Returns how long it took.
    pub(crate) fn call(&mut self, session: &mut Session) -> Outcome<Duration> {
        let views: Vec<_> = self.inputs.iter().map(|(name, buffer)| (name.as_str(), buffer.view())).collect();
        let start = Instant::now();
        match &mut self.state {
            Some(state) => session.run_stateful(&self.name, state, self.tokens, &views)?,
            None => session.run(&self.name, &views)?,
        };
        Ok(start.elapsed())
    }

    /// Runs the program once more, each launch by itself.
    pub(crate) fn profile(&mut self, session: &mut Session) -> Outcome<Profile> {
        let views: Vec<_> = self.inputs.iter().map(|(name, buffer)| (name.as_str(), buffer.view())).collect();
        let state = self.state.as_mut().map(|state| (state, self.tokens));
        let start = Instant::now();
        let launches = session.run_profiled(&self.name, state, &views)?.1;
        Ok(Profile { start, launches })
    }
}

/// The launches of one call.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) start: Instant,
    pub(crate) launches: Vec<LaunchProfile>,
}

/// The GPU in use and the bytes that it reads and writes per second when it copies, measured now.
#[cfg(feature = "cuda")]
pub(crate) fn gpu(session: &mut Session) -> Outcome<Option<(String, f64)>> {
    Ok(session.gpu_facts()?.map(|facts| (facts.name, facts.copy_rate)))
}

/// Without the feature `cuda` no GPU is in use.
#[cfg(not(feature = "cuda"))]
pub(crate) fn gpu(_: &mut Session) -> Outcome<Option<(String, f64)>> {
    Ok(None)
}

/// What the machine allows in the run that was measured: on a GPU, whose copies were measured, the rate of a product of
/// halves.
pub(crate) fn rates(session: &Session, gpu: Option<&(String, f64)>) -> Outcome<MachineRates> {
    match gpu {
        None => Ok(MachineRates::measure(session.n_threads())),
        Some((_, copies)) => Ok(MachineRates { bytes: *copies, flops: matrix::rate(session.level())? }),
    }
}

/// Time and work of some launches.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) launches: usize,
    pub(crate) seconds: f64,
    pub(crate) flops: f64,
    pub(crate) bytes: f64,
    /// Seconds that the work takes at least, launch by launch.
    pub(crate) floor: f64,
}

impl Total {
    pub(crate) fn add(&mut self, launch: &LaunchProfile, rates: Option<&MachineRates>) {
        let (flops, bytes) = (launch.flops.unwrap_or(0) as f64, launch.bytes.unwrap_or(0) as f64);
        self.launches += 1;
        self.seconds += launch.time.as_secs_f64();
        self.flops += flops;
        self.bytes += bytes;
        self.floor += rates.map_or(0.0, |rates| rates.floor(flops, bytes));
    }

    /// Cells of a row: time, its share of `all` seconds, rates, and the part of the time that the machine's limits
    /// explain.
    pub(crate) fn cells(&self, all: f64, rates: Option<&MachineRates>) -> Vec<String> {
        let rate = |work: f64| work / self.seconds.max(1e-12);
        let percent = |part: f64, whole: f64| 100.0 * part / whole.max(1e-12);
        let of = |found: f64, most: Option<f64>| {
            most.map_or(String::new(), |most| format!(" ({:.0} %)", percent(found, most)))
        };
        let (flops, bytes) = (rate(self.flops), rate(self.bytes));
        let mut cells = vec![
            format!("{:.3} ms", 1e3 * self.seconds),
            format!("{:.1} %", percent(self.seconds, all)),
            format!("{:.2} GFLOP/s{}", flops / 1e9, of(flops, rates.map(|r| r.flops))),
            format!("{:.2} GB/s{}", bytes / 1e9, of(bytes, rates.map(|r| r.bytes))),
        ];
        if rates.is_some() {
            cells.push(format!("{:.0} % of its limit", percent(self.floor, self.seconds)));
        }
        cells
    }

    pub(crate) fn json(&self, rates: Option<&MachineRates>) -> Value {
        json!({
            "launches": self.launches, "seconds": self.seconds, "flops": self.flops, "bytes": self.bytes,
            "floor_seconds": rates.map(|_| self.floor),
        })
    }
}

/// All launches together.
pub(crate) fn sum(launches: &[LaunchProfile], rates: Option<&MachineRates>) -> Total {
    launches.iter().fold(Total::default(), |mut total, launch| {
        total.add(launch, rates);
        total
    })
}

/// By kernel, the slowest first.
pub(crate) fn by_kernel<'a>(
    launches: &'a [LaunchProfile],
    rates: Option<&MachineRates>,
) -> Vec<(&'a str, Total)> {
    let mut by_kernel: BTreeMap<&str, Total> = BTreeMap::new();
    for launch in launches {
        by_kernel.entry(&launch.kernel).or_default().add(launch, rates);
    }
    let mut all: Vec<_> = by_kernel.into_iter().collect();
    all.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds).then(a.0.cmp(b.0)));
    all
}

/// A row per kernel, the slowest first.
pub(crate) fn kernels_table(launches: &[LaunchProfile], rates: Option<&MachineRates>) -> String {
    let all = sum(launches, None).seconds;
    let rows: Vec<Vec<String>> = by_kernel(launches, rates)
        .into_iter()
        .map(|(name, total)| {
            let head = [format!("  {name}"), format!("x{}", total.launches)];
            head.into_iter().chain(total.cells(all, rates)).collect()
        })
        .collect();
    table(&rows)
}

/// How kernels of products begin.
const PRODUCTS: &str = "ssmc_contract_";

/// A line that says how many products a library did, if it did any.
pub(crate) fn products(launches: &[LaunchProfile]) -> String {
    let by_library = launches.iter().filter(|launch| launch.by_library).count();
    let own = launches.iter().filter(|launch| launch.kernel.starts_with(PRODUCTS)).count();
    match by_library {
        0 => String::new(),
        n => format!("  products: {n} by cublasLt, {own} by kernels of the artefact\n"),
    }
}

/// An object per kernel, the slowest first.
pub(crate) fn kernels_json(launches: &[LaunchProfile], rates: Option<&MachineRates>) -> Vec<Value> {
    let object = |(name, total): (&str, Total)| {
        let mut object = total.json(rates);
        object["kernel"] = name.into();
        object
    };
    by_kernel(launches, rates).into_iter().map(object).collect()
}

/// The rates for people.
pub(crate) fn describe(rates: &MachineRates, gpu: Option<&(String, f64)>) -> String {
    let (bytes, flops) = (rates.bytes / 1e9, rates.flops / 1e9);
    match gpu {
        None => format!("the machine in this run: {bytes:.1} GB/s read, {flops:.0} GFLOP/s f32"),
        Some((name, _)) => {
            format!("{name} in this run: copies {bytes:.0} GB/s, a product of bf16 {flops:.0} GFLOP/s")
        }
    }
}

/// The GPU in use for programs.
pub(crate) fn gpu_json(gpu: Option<&(String, f64)>) -> Value {
    gpu.map_or(Value::Null, |(name, copies)| json!({"name": name, "copy_bytes_per_second": copies}))
}

/// Rates for programs.
pub(crate) fn rates_json(rates: Option<&MachineRates>) -> Value {
    rates.map_or(Value::Null, |r| json!({"bytes_per_second": r.bytes, "flops_per_second": r.flops}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(kernel: &str, milliseconds: u64, flops: i64, bytes: i64) -> LaunchProfile {
        LaunchProfile {
            launch: 0,
            kernel: kernel.to_owned(),
            by_library: false,
            nodes: Vec::new(),
            locations: Vec::new(),
            recurrence: String::new(),
            grid: 1,
            time: Duration::from_millis(milliseconds),
            flops: Some(flops),
            bytes: Some(bytes),
        }
    }

    #[test]
    fn kernels_are_summed_and_the_slowest_is_first() {
        let launches = [launch("a", 1, 10, 1), launch("b", 5, 10, 100), launch("a", 2, 10, 1)];
        let rates = MachineRates { bytes: 1e4, flops: 1e4 };
        let found = by_kernel(&launches, Some(&rates));
        assert_eq!(
            found.iter().map(|(name, t)| (*name, t.launches)).collect::<Vec<_>>(),
            [("b", 1), ("a", 2)]
        );
        assert_eq!(found[1].1.floor, 0.002);
        assert_eq!(found[0].1.floor, 0.01);
        let text = kernels_table(&launches, Some(&rates));
        assert!(
            text.starts_with("  b  x1  5.000 ms  62.5 %  0.00 GFLOP/s (20 %)  0.00 GB/s (200 %)  200 % of"),
            "{text}"
        );
        assert!(!kernels_table(&launches, None).contains("limit"));
    }
}
