//! Packages of the workspace and what they depend on.

use serde_json::Value;

/// When a dependency is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Build,
    /// For tests only.
    Dev,
}

/// A package and the names of its direct dependencies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) dependencies: Vec<(String, Kind)>,
}

impl Package {
    /// The packages of `cargo metadata --no-deps`.
    pub(super) fn all(metadata: &Value) -> Vec<Self> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
        let dependency = |value: &Value| {
            let kind = match value["kind"].as_str() {
                Some("dev") => Kind::Dev,
                Some("build") => Kind::Build,
                _ => Kind::Normal,
            };
            (name(value), kind)
        };
        let packages = list(&metadata["packages"]);
        let package = |value: &Value| Self {
            name: name(value),
            dependencies: list(&value["dependencies"]).iter().map(dependency).collect(),
        };
        packages.iter().map(package).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_is_read() {
        let metadata = json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}, {"name": "d", "kind": "build"}
        ]}]});
        let dependencies =
            vec![("b".into(), Kind::Normal), ("c".into(), Kind::Dev), ("d".into(), Kind::Build)];
        assert_eq!(Package::all(&metadata), [Package { name: "a".into(), dependencies }]);
    }
}
