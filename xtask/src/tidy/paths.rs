//! Text names no folder of the machine it was written on.

use super::repo::Repo;
use regex::Regex;

/// The only file that knows the folder beside the checkout.
const NEIGHBOUR: &str = ".ci/run";

pub(super) fn check(repo: &Repo) -> Vec<String> {
    // Spelled in parts, so that this file does not contain what it looks for.
    let roots = ["work", "root", "home"].join("|");
    let absolute = Regex::new(&format!(r#"(?m)(^|[\s"'`(=:])/({roots})/\w"#)).expect("the pattern is valid");
    let neighbour = ["../", "shared/"].concat();
    let mut faults = Vec::new();
    for (path, text) in &repo.files {
        for (i, line) in text.lines().enumerate() {
            let outside = line.contains(&neighbour) && path != NEIGHBOUR;
            if outside || absolute.is_match(line) {
                faults.push(format!(
                    "{path}:{}: {}",
                    i + 1,
                    line.trim().chars().take(100).collect::<String>()
                ));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::repo::files;
    use super::*;

    #[test]
    fn folders_outside_are_found() {
        let absolute = ["see ", "/wo", "rk/x"].concat();
        let neighbour = ["../", "shared/x"].concat();
        let faults = check(&files(&[("a.md", &absolute), ("b.rs", &neighbour), (".ci/run", &neighbour)]));
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(check(&files(&[("c.md", "the work/ folder of node `/m/work/Scan`")])).is_empty());
    }
}
