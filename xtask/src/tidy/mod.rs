//! Rules of the code base that no compiler checks, one file each.

mod dependencies;
mod emitters;
mod names;
mod ops;
mod packages;
mod paths;
mod repo;
mod rules;
mod unsafe_code;

use crate::Result;
use repo::Repo;

/// A check: what it calls itself and what it finds.
type Check = (&'static str, fn(&Repo) -> Vec<String>);

const CHECKS: &[Check] = &[
    ("crates depend on each other in one direction", dependencies::between_crates),
    ("a dependency that one crate owns is named by no other", dependencies::owned),
    ("the runtime depends on little", dependencies::of_runtime),
    ("emitters know no graphs", emitters::check),
    ("unsafe code stands where it is needed", unsafe_code::check),
    ("every op is documented and tested", ops::check),
    ("every rule is documented and tested", rules::check),
    ("passes know no exporter and no node's name", names::check),
    ("nothing names a place outside the repository", paths::check),
];

/// Runs every check; whether all hold.
pub(crate) fn main(args: &[String]) -> Result<bool> {
    if !args.is_empty() {
        return Err("expected no arguments".into());
    }
    let repo = Repo::load()?;
    let mut clean = true;
    for (name, check) in CHECKS {
        for fault in check(&repo) {
            clean = false;
            println!("tidy: {fault} ({name})");
        }
    }
    println!("tidy: {} checks, {}", CHECKS.len(), if clean { "clean" } else { "see above" });
    Ok(clean)
}
