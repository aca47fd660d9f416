//! Which crate may depend on which.

use super::packages::Kind;
use super::repo::Repo;

/// Everything of the compiler.
const COMPILER: &[&str] = &["ssmc-ir", "ssmc-frontend", "ssmc-passes", "ssmc-codegen"];
/// What runs models in another engine, for a feature that is off by default.
const ORACLE: &[&str] = &["ssmc-frontend", "ssmc-ir"];
const RUNTIME: &[&str] = &["ssmc-artifact", "ssmc-runtime"];

/// For each crate the lists of crates of ours that it may depend on.
const EDGES: &[(&str, &[&[&str]])] = &[
    ("ssmc-ir", &[]),
    ("ssmc-frontend", &[&["ssmc-ir"]]),
    ("ssmc-passes", &[&["ssmc-ir"]]),
    ("ssmc-codegen", &[&["ssmc-ir", "ssmc-artifact"]]),
    ("ssmc-artifact", &[]),
    ("ssmc-runtime", &[&["ssmc-artifact"]]),
    ("ssmc", &[COMPILER, RUNTIME, &["ssmc-npz"]]),
    ("ssmc-tests", &[COMPILER, RUNTIME, &["ssmc", "ssmc-npz"]]),
    ("ssmc-npz", &[]),
    ("ssmc-runner", &[RUNTIME, &["ssmc-npz"]]),
    ("xtask", &[&["ssmc-npz"], ORACLE]),
];

/// Further edges, for tests only.
const TEST_EDGES: &[(&str, &str)] = &[("ssmc-codegen", "ssmc-passes")];

/// Crates of others that only one crate of ours may name.
const OWNERS: &[(&str, &str)] = &[
    ("egg", "ssmc-passes"),
    ("petgraph", "ssmc-passes"),
    ("inkwell", "ssmc-codegen"),
    ("object", "ssmc-codegen"),
    ("cudarc", "ssmc-runtime"),
    ("tract-onnx", "ssmc-frontend"),
    ("miette", "ssmc"),
    ("clap", "ssmc"),
    ("indicatif", "ssmc"),
    ("tokenizers", "ssmc"),
];

/// All that a runtime in a product brings along.
const LEAN: &[(&str, &[&str])] = &[
    ("ssmc-runtime", &["ssmc-artifact", "half", "bytemuck", "thiserror", "memmap2", "cudarc"]),
    ("ssmc-artifact", &["prost", "sha2", "thiserror"]),
];

pub(super) fn between_crates(repo: &Repo) -> Vec<String> {
    let ours = |name: &str| repo.packages.iter().any(|package| package.name == name);
    let mut faults = Vec::new();
    for package in &repo.packages {
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == package.name) else {
            faults.push(format!("{}: a crate that the list of edges lacks", package.name));
            continue;
        };
        for (dependency, kind) in package.dependencies.iter().filter(|(name, _)| ours(name)) {
            let for_tests = TEST_EDGES.contains(&(package.name.as_str(), dependency.as_str()));
            let listed = allowed.iter().any(|list| list.contains(&dependency.as_str()));
            let known = listed || (for_tests && *kind == Kind::Dev);
            if !known {
                faults.push(format!("{} depends on {dependency}", package.name));
            }
        }
    }
    faults
}

pub(super) fn owned(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &repo.packages {
        for (dependency, _) in &package.dependencies {
            if let Some((_, owner)) = OWNERS.iter().find(|(name, _)| name == dependency)
                && *owner != package.name
            {
                faults.push(format!("{} depends on {dependency}, which belongs to {owner}", package.name));
            }
        }
    }
    faults
}

pub(super) fn of_runtime(repo: &Repo) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &repo.packages {
        let Some((_, allowed)) = LEAN.iter().find(|(name, _)| *name == package.name) else { continue };
        let normal = package.dependencies.iter().filter(|(_, kind)| *kind == Kind::Normal);
        for (dependency, _) in normal.filter(|(name, _)| !allowed.contains(&name.as_str())) {
            faults.push(format!("{} depends on {dependency}", package.name));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::packages::Package;
    use super::*;

    fn repo(packages: &[(&str, &[(&str, Kind)])]) -> Repo {
        let package = |(name, dependencies): &(&str, &[(&str, Kind)])| Package {
            name: (*name).to_owned(),
            dependencies: dependencies.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect(),
        };
        Repo { packages: packages.iter().map(package).collect(), ..Repo::default() }
    }

    #[test]
    fn siblings_do_not_import_each_other() {
        let good = repo(&[
            ("ssmc-ir", &[]),
            ("ssmc-passes", &[("ssmc-ir", Kind::Normal), ("egg", Kind::Normal)]),
            ("ssmc-codegen", &[("ssmc-ir", Kind::Normal), ("ssmc-passes", Kind::Dev)]),
        ]);
        assert_eq!(between_crates(&good), Vec::<String>::new());
        let bad = repo(&[("ssmc-passes", &[]), ("ssmc-codegen", &[("ssmc-passes", Kind::Normal)])]);
        assert_eq!(between_crates(&bad), ["ssmc-codegen depends on ssmc-passes"]);
        let bad = repo(&[("ssmc-codegen", &[]), ("ssmc-passes", &[("ssmc-codegen", Kind::Dev)])]);
        assert_eq!(between_crates(&bad).len(), 1);
        assert_eq!(between_crates(&repo(&[("ssmc-new", &[])])).len(), 1);
    }

    #[test]
    fn owned_crates_stay_with_their_owner() {
        assert!(owned(&repo(&[("ssmc-passes", &[("egg", Kind::Normal)])])).is_empty());
        assert_eq!(owned(&repo(&[("ssmc-ir", &[("egg", Kind::Dev)])])).len(), 1);
    }

    #[test]
    fn the_runtime_stays_lean() {
        let good = [("prost", Kind::Normal), ("protox", Kind::Build), ("tempfile", Kind::Dev)];
        assert!(of_runtime(&repo(&[("ssmc-artifact", &good)])).is_empty());
        let bad = repo(&[("ssmc-runtime", &[("serde_json", Kind::Normal)])]);
        assert_eq!(of_runtime(&bad), ["ssmc-runtime depends on serde_json"]);
    }
}
