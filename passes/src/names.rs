//! Choices by name, as users write them.

/// A name that is none of those that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, found {found}", names.join(", "))]
pub struct UnknownName {
    /// The names that there are.
    pub names: &'static [&'static str],
    /// The name as given.
    pub found: String,
}

/// The choice of a name; `names` are those of `choices`, in their order.
pub(crate) fn choose<T: Copy>(
    choices: &[T],
    names: &'static [&'static str],
    name: &str,
) -> Result<T, UnknownName> {
    let at = names.iter().position(|known| *known == name);
    at.map(|at| choices[at]).ok_or_else(|| UnknownName { names, found: name.to_owned() })
}
