//! The stages on the way through the compiler.

use std::fmt;
use std::str::FromStr;

macro_rules! stages {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A stage on the way through the compiler, in order. Every command accepts these names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Stage { $($(#[$doc])* $variant),* }

        impl Stage {
            /// Every stage, in order.
            pub const ALL: &'static [Stage] = &[$(Stage::$variant),*];

            /// The public spelling.
            pub fn name(self) -> &'static str {
                match self { $(Stage::$variant => $name),* }
            }
        }
    };
}

stages! {
    /// What a frontend made of the file.
    Imported = "imported",
    /// Constants folded, products and layouts as contractions.
    Canonical = "canonical",
    /// Recurrences are scan ops.
    Raised = "raised",
    /// Fused by equality saturation; the first stage with fused ops.
    Rewritten = "rewritten",
    /// Nodes grouped into kernels.
    Partitioned = "partitioned",
    /// Kernel IR.
    Kernel = "kernel",
    /// Kernel IR that an emitter can print.
    Legal = "legal",
    /// Machine code or PTX.
    Emitted = "emitted",
}

impl Stage {
    /// Whether graphs of this stage may contain fused ops.
    pub fn allows_fused(self) -> bool {
        self >= Stage::Rewritten
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a stage ({}), found {found:?}", Stage::ALL.iter().map(|s| s.name()).collect::<Vec<_>>().join(", "))]
#[expect(missing_docs, reason = "the field is named in the message")]
pub struct UnknownStage {
    pub found: String,
}

impl FromStr for Stage {
    type Err = UnknownStage;
    fn from_str(name: &str) -> Result<Self, UnknownStage> {
        Self::ALL
            .iter()
            .copied()
            .find(|s| s.name() == name)
            .ok_or_else(|| UnknownStage { found: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for stage in Stage::ALL {
            assert_eq!(stage.name().parse(), Ok(*stage));
        }
        assert!(Stage::ALL.is_sorted());
        let unknown = "raise".parse::<Stage>().unwrap_err().to_string();
        assert!(unknown.contains("raised") && unknown.contains("\"raise\""), "{unknown}");
    }
}
