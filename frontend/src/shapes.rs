//! Shapes that a user gives for a model's inputs: sizes that are fixed, renamed or bounded.

use ssmc_ir::{Dim, Shape, Symbol};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What is said about one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `_`: as the model declares it.
    Declared,
    /// A number: this extent.
    Fixed(i64),
    /// A name: this symbol, with the greatest value that it takes.
    Symbol(String, Option<i64>),
    /// `_<=N`: as the model declares it, with the greatest value that it takes.
    Bounded(i64),
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declared => f.write_str("_"),
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Symbol(name, None) => f.write_str(name),
            Self::Symbol(name, Some(max)) => write!(f, "{name}<={max}"),
            Self::Bounded(max) => write!(f, "_<={max}"),
        }
    }
}

/// The shape of one input, as text `NAME:EXTENT,EXTENT,..`. The tensors of a sequence are the inputs `NAME.0`, `NAME.1`
/// and so on; `NAME:-` says that a sequence is empty or an optional value not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputShape {
    /// The input.
    pub input: String,
    /// One for each axis.
    pub extents: Vec<Extent>,
    /// Whether there is nothing in its place.
    pub absent: bool,
}

/// A text is no input shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected NAME:EXTENT,EXTENT,.. with extents like 768, T, T<=4096 or _, or NAME:-, found {found:?}")]
pub struct ParseShapeError {
    /// The text.
    pub found: String,
}

impl FromStr for InputShape {
    type Err = ParseShapeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || ParseShapeError { found: text.to_owned() };
        // Names of inputs may hold colons, extents do not.
        let (input, extents) =
            text.rsplit_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(fault)?;
        let absent = extents.trim() == "-";
        let extents = if absent || extents.trim().is_empty() {
            Vec::new()
        } else {
            extents.split(',').map(|e| extent(e.trim())).collect::<Option<_>>().ok_or_else(fault)?
        };
        Ok(Self { input: input.to_owned(), extents, absent })
    }
}

fn extent(text: &str) -> Option<Extent> {
    let (name, max) = match text.split_once("<=") {
        Some((name, max)) => (name.trim(), Some(max.trim().parse().ok().filter(|max| *max > 0)?)),
        None => (text, None),
    };
    if let Ok(n) = name.parse::<i64>() {
        return (n >= 0 && max.is_none()).then_some(Extent::Fixed(n));
    }
    let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
    match max {
        _ if !is_name => None,
        None if name == "_" => Some(Extent::Declared),
        Some(max) if name == "_" => Some(Extent::Bounded(max)),
        max => Some(Extent::Symbol(name.to_owned(), max)),
    }
}

/// A given shape does not fit the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum ShapeFault {
    #[error("there is no input {input:?}, expected one of {}", known.join(", "))]
    UnknownInput { input: String, known: Vec<String> },
    #[error("input {input:?}: expected {expected} axes, found {found}")]
    Rank { input: String, expected: usize, found: usize },
    #[error("input {input:?} axis {axis}: expected {expected}, found {found}")]
    Extent { input: String, axis: usize, expected: String, found: String },
    #[error("input {input:?} is a tensor and cannot be absent")]
    Absent { input: String },
    #[error("programs are derived from {symbol}, which can be bounded ({symbol}<=N), found {found}")]
    Programs { symbol: String, found: String },
    #[error("input {input:?} declares no shape, so axis {axis} needs a number or a name")]
    Undeclared { input: String, axis: usize },
}

/// What given shapes say about the symbols of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// What stands in the place of declared symbols.
    pub dims: BTreeMap<Symbol, Dim>,
    /// The greatest values of symbols, by name.
    pub maxima: BTreeMap<String, i64>,
}

impl Binding {
    /// Compares shapes with the declared ones of the model's inputs; an input without declaration is `None`.
    ///
    /// # Errors
    /// Every fault: an unknown input, another rank, or an extent that contradicts the declaration or another one.
    pub fn new(given: &[InputShape], declared: &[(&str, Option<&Shape>)]) -> Result<Self, Vec<ShapeFault>> {
        let (mut binding, mut faults) = (Self::default(), Vec::new());
        for shape in given {
            match declared.iter().find(|(name, _)| *name == shape.input) {
                None => faults.push(ShapeFault::UnknownInput {
                    input: shape.input.clone(),
                    known: declared.iter().map(|(name, _)| (*name).to_owned()).collect(),
                }),
                Some(_) if shape.absent => faults.push(ShapeFault::Absent { input: shape.input.clone() }),
                Some((_, None)) => faults.extend(binding.undeclared(shape)),
                Some((_, Some(dims))) if dims.rank() != shape.extents.len() => {
                    let (expected, found) = (dims.rank(), shape.extents.len());
                    faults.push(ShapeFault::Rank { input: shape.input.clone(), expected, found });
                }
                Some((_, Some(dims))) => {
                    for (axis, (extent, dim)) in shape.extents.iter().zip(dims.iter()).enumerate() {
                        faults.extend(binding.axis(&shape.input, axis, extent, dim).err());
                    }
                }
            }
        }
        if faults.is_empty() { Ok(binding) } else { Err(faults) }
    }

    /// Notes the bounds of a shape without declaration.
    fn undeclared(&mut self, shape: &InputShape) -> Vec<ShapeFault> {
        let mut faults = Vec::new();
        for (axis, extent) in shape.extents.iter().enumerate() {
            match extent {
                Extent::Declared | Extent::Bounded(_) => {
                    faults.push(ShapeFault::Undeclared { input: shape.input.clone(), axis });
                }
                Extent::Symbol(name, Some(max)) => self.bound(name, *max),
                Extent::Symbol(_, None) | Extent::Fixed(_) => {}
            }
        }
        faults
    }

    /// The shape of an input that declares none.
    pub fn shape(given: &InputShape) -> Shape {
        let dim = |extent: &Extent| match extent {
            Extent::Fixed(n) => Dim::from(*n),
            Extent::Symbol(name, _) => Dim::symbol(name),
            Extent::Declared | Extent::Bounded(_) => Dim::undefined(),
        };
        given.extents.iter().map(dim).collect()
    }

    /// A declared shape with what stands in the place of its symbols.
    pub fn apply(&self, shape: &Shape) -> Shape {
        shape.iter().map(|dim| dim.substitute(&self.dims)).collect()
    }

    fn axis(&mut self, input: &str, axis: usize, extent: &Extent, dim: &Dim) -> Result<(), ShapeFault> {
        let now = dim.substitute(&self.dims);
        let fault = |expected: &Dim| ShapeFault::Extent {
            input: input.to_owned(),
            axis,
            expected: expected.to_string(),
            found: extent.to_string(),
        };
        let wanted = match extent {
            Extent::Declared => return Ok(()),
            Extent::Bounded(max) => {
                let symbol = now.as_symbol().ok_or_else(|| fault(&now))?;
                let name = symbol.name().to_owned();
                self.bound(&name, *max);
                return Ok(());
            }
            Extent::Fixed(n) => Dim::from(*n),
            Extent::Symbol(name, max) => {
                if let Some(max) = max {
                    self.bound(name, *max);
                }
                Dim::symbol(name)
            }
        };
        match dim.as_symbol() {
            Some(symbol) => {
                let before = self.dims.insert(symbol.clone(), wanted.clone());
                if before.is_some_and(|before| before != wanted) {
                    return Err(fault(&now));
                }
                Ok(())
            }
            None if now == wanted => Ok(()),
            None => Err(fault(&now)),
        }
    }

    fn bound(&mut self, name: &str, max: i64) {
        let least = self.maxima.get(name).map_or(max, |known| max.min(*known));
        self.maxima.insert(name.to_owned(), least);
    }
}

#[cfg(test)]
mod tests;
