//! `ssmc targets`

use crate::failure::Outcome;
use crate::output::{print, print_json, table};
use serde_json::json;
use ssmc_codegen::target::{CpuLevel, CpuTarget};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, json: bool) -> Outcome {
    let can_generate = cfg!(feature = "llvm");
    let host = CpuLevel::host();
    if json {
        let levels: Vec<_> = CpuLevel::ALL
            .iter()
            .map(|level| {
                json!({
                    "name": level.name(),
                    "arch": level.arch().name(),
                    "vector_bits": CpuTarget::of_level(*level).vector_bits,
                    "features": level.runtime_features(),
                    "runs_here": level.runs_on_host(),
                })
            })
            .collect();
        let native = host.map(CpuLevel::name);
        return print_json("targets", json!({"can_generate": can_generate, "native": native, "cpu": levels}));
    }
    let mut rows = vec![["level", "vector", "runs here", ""].map(str::to_owned).to_vec()];
    for level in CpuLevel::ALL {
        let note = if host == Some(level) { "native" } else { "" };
        rows.push(vec![
            level.name().to_owned(),
            format!("{} bits", CpuTarget::of_level(level).vector_bits),
            if level.runs_on_host() { "yes" } else { "no" }.to_owned(),
            note.to_owned(),
        ]);
    }
    if !can_generate {
        eprintln!("note: this ssmc was built without the feature `llvm` and generates no CPU code");
    }
    print(&table(&rows))
}
