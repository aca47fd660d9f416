//! How values relate to time.

use ssmc_ir::{Dim, NodeId};
use std::collections::BTreeMap;
use std::fmt;

/// The time axis of the inputs and the extent that it has in the graph.
#[derive(Clone, Debug)]
pub(super) struct Time {
    pub(super) len: Dim,
    pub(super) axes: BTreeMap<String, usize>,
}

/// How a value depends on the sequence.
#[derive(Clone, Debug)]
pub(super) enum Flow {
    /// It does not: weights, constants and what is computed of them.
    Fixed,
    /// It has elements along a time axis.
    Stream(Stream),
    /// It has elements for pairs of steps.
    Pairs(Pairs),
    /// A function of all steps so far, such as the last state of a scan.
    Latest {
        /// The node from which on it also depends on what follows the sequence.
        padded: Option<NodeId>,
    },
}

/// A value with a time axis. In the derived program a piece of it has one element per step of the piece.
///
/// Element `i` is known once step `i - lead` of the sequence is: `lead` elements come before the sequence begins, such
/// as padding, and where `lead` is negative an element needs later steps than its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) axis: usize,
    pub(super) lead: i64,
    /// Extents that a reshape merged into the time axis, before and after time.
    pub(super) outer: Dim,
    pub(super) inner: Dim,
    /// Whether the elements before the sequence are zeros.
    pub(super) zeros_before: bool,
    /// The node that made `lead` negative.
    pub(super) since: Option<NodeId>,
}

impl Stream {
    pub(super) fn on(axis: usize) -> Self {
        let one = Dim::from(1);
        Self { axis, lead: 0, outer: one.clone(), inner: one, zeros_before: true, since: None }
    }

    /// The same stream on another axis.
    pub(super) fn moved(&self, axis: usize) -> Self {
        Self { axis, ..self.clone() }
    }

    /// Whether the axis is time and nothing else.
    pub(super) fn is_pure(&self) -> bool {
        self.outer.is(1) && self.inner.is(1)
    }

    /// The extent that a number of steps has on the axis.
    pub(super) fn extent(&self, steps: &Dim) -> Dim {
        self.outer.clone() * steps * &self.inner
    }

    /// The stream with `steps` more elements before the sequence; `node` is where.
    pub(super) fn led(&self, steps: i64, node: NodeId) -> Self {
        let lead = self.lead + steps;
        let since = if lead < 0 { self.since.or(Some(node)) } else { None };
        Self { lead, since, ..self.clone() }
    }
}

/// A value with two time axes: what a step, the query, makes of another one, the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pairs {
    pub(super) query: usize,
    pub(super) keys: usize,
    pub(super) future: Future,
}

/// What a value has where the key is later than the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Future {
    /// Anything.
    Any,
    /// Numbers whose exponential is nothing beside that of a score.
    Lowest,
    /// Zeros.
    Zero,
}

/// Why a node cannot be computed as the sequence arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It runs backwards.
    Reverse,
    /// It needs this many later steps.
    Lookahead(i64),
    /// It combines all steps.
    OverTime,
    /// It relates all pairs of steps, which a window of past steps may allow.
    NeedsWindow,
    /// It relates steps in a way that no window of past steps allows.
    AllPairs,
    /// It combines all keys of a step, also those that are later.
    Unmasked,
    /// It reads one fixed step.
    FixedStep,
    /// Every step needs the end of the sequence.
    NeedsEnd,
    /// It mixes time with other axes.
    Mixed,
    /// A constant has another value at every step.
    Varies,
    /// A constant has values for fewer steps than the longest sequence has.
    Short {
        /// The steps that it has values for.
        steps: i64,
        /// The steps of the longest sequence.
        wanted: i64,
    },
    /// What comes before the sequence is not zeros.
    PaddedBefore,
    /// What comes after the sequence has an effect.
    PaddedAfter,
    /// It depends on the length of the whole sequence.
    TotalLength,
    /// Elements of the result are no steps of the sequence.
    Length(String),
    /// A scan along another axis.
    OtherAxis,
    /// The op has no streaming form.
    NoForm,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reverse => "runs from the end of the sequence to its beginning",
            Self::Lookahead(1) => "needs one later step",
            Self::Lookahead(n) => return write!(f, "needs {n} later steps"),
            Self::OverTime => "combines all steps of the sequence",
            Self::NeedsWindow => {
                "relates all pairs of steps, which needs a window of past steps (--max-context N)"
            }
            Self::AllPairs => "relates steps in a way that no window of past steps allows",
            Self::Unmasked => "combines pairs of steps of which no mask leaves out later ones",
            Self::FixedStep => "reads fixed steps of the sequence",
            Self::NeedsEnd => "needs the end of the sequence at every step",
            Self::Mixed => "mixes time with other axes",
            Self::Varies => {
                "takes a constant that differs from step to step, which a longest sequence bounds (--max-context N)"
            }
            Self::Short { steps, wanted } => {
                return write!(f, "takes a constant for {steps} steps, fewer than the {wanted} of --max-context");
            }
            Self::PaddedBefore => "looks back at padding that is not zero",
            Self::PaddedAfter => "depends on what follows the sequence",
            Self::TotalLength => "depends on the length of the whole sequence",
            Self::Length(found) => {
                return write!(f, "has a result of {found}, which is not one element per step");
            }
            Self::OtherAxis => "runs along another axis than time",
            Self::NoForm => "has no streaming form",
        })
    }
}
