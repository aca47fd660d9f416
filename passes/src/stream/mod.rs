//! Streaming out of a sequence graph: from a graph over whole sequences, programs that take a piece of a sequence at a
//! time and carry explicit state.
//!
//! The graph is walked once with a `Flow` for every value: the same for the whole sequence, one element per step
//! along a time axis, or a function of all steps so far. Elementwise ops and products that do not sum over time act on a
//! piece as they act on the whole; what looks back becomes state: the tail of a convolution, the last state of a scan, a
//! running sum, a delay line where values of different steps meet. What looks ahead, or at all steps at once, is
//! refused with its node.
//!
//! The length of the sequences that the graph was made for does not matter: a static one is replaced like a symbol.

mod fixed;
mod flow;
mod kernels;
mod layout;
mod loops;
mod pairs;
mod pointwise;
mod realize;
mod state;
mod temporal;
mod walk;
mod window;

pub use flow::Reason;

use crate::programs::Program;
use flow::Time;
use ssmc_ir::edit::EditError;
use ssmc_ir::{BuildError, Dim, Entity, Graph, Symbol, TensorType, Weight, Weights};
use std::collections::BTreeMap;
use std::fmt;
use walk::{Walker, Window};

/// What the caller knows about the model.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// The time axis of inputs by name; if empty, the axis along which the model's recurrences run is found.
    pub time_axes: BTreeMap<String, usize>,
    /// The most steps of a sequence, for what relates all pairs of steps, such as attention; without it such graphs are
    /// refused.
    pub max_context: Option<u32>,
}

/// A state of the derived programs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct StateInfo {
    pub name: String,
    pub ty: TensorType,
    /// The node that looks back.
    pub place: String,
}

/// What became of a long convolution with a frozen kernel.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct KernelInfo {
    pub place: String,
    pub taps: usize,
    /// The most states of a channel, where the kernel is a state space; else it keeps the inputs of all its taps.
    pub order: Option<usize>,
    /// The largest difference between a channel's kernel and that of its state space, over the norm of the kernel.
    pub residual: f64,
}

impl fmt::Display for KernelInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, taps, order, residual } = self;
        match order {
            Some(order) => {
                write!(f, "{place}: {taps} taps as a state space of order {order}, residual {residual:.1e}")
            }
            None => write!(
                f,
                "{place}: {taps} taps over the inputs so far: no smaller state space has a residual of {:.0e}",
                realize::RESIDUAL
            ),
        }
    }
}

/// What was derived from a sequence graph.
#[derive(Clone, Debug)]
pub struct Streaming {
    /// `prefill`, for pieces of any length, and `step`, for one step.
    pub programs: Vec<Program>,
    /// Weights that the programs have beside those of the graph.
    pub weights: Vec<(String, Weight)>,
    /// What became of frozen kernels.
    pub kernels: Vec<KernelInfo>,
    /// What the programs carry from call to call.
    pub states: Vec<StateInfo>,
    /// The time axis of every input that has one.
    pub time_axes: BTreeMap<String, usize>,
    /// The most steps of a sequence, if windows or constants of the model bound it.
    pub max_context: Option<u64>,
}

/// Why no streaming program was derived.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum StreamError {
    #[error("{place}: {op} {reason}")]
    Refused { place: String, op: &'static str, reason: Reason },
    #[error("no recurrence runs along an axis of an input; along axis {axis} of input {input:?}, {found}")]
    NoTimeAxis { input: String, axis: usize, found: String },
    #[error("no input has an axis that could be time")]
    NoInput,
    #[error("the model is one step already: output {output:?} is the next state of input {input:?}")]
    IsStep { input: String, output: String },
    #[error("time axis {axis} of input {input:?}: {message}")]
    TimeAxis { input: String, axis: usize, message: String },
    #[error(transparent)]
    Edit(#[from] EditError),
}

impl From<BuildError> for StreamError {
    fn from(error: BuildError) -> Self {
        Self::Edit(error.into())
    }
}

/// The extent of a piece while the graph is walked; afterwards it has the name of the model's own length.
const PIECE: &str = "ssmc.piece";
/// The length of a piece where the model's length has no name.
const SEQ_LEN: &str = "seq_len";
/// The number of sequences where the model calls it something else.
const BATCH: &str = "batch";

/// Derives `prefill` and `step` from a raised graph over whole sequences.
///
/// # Errors
/// The first node that cannot be computed as the sequence arrives, and why.
pub fn derive(graph: &Graph, weights: &Weights, options: &StreamOptions) -> Result<Streaming, StreamError> {
    let is_stated = !options.time_axes.is_empty();
    let past = options.max_context.map(|steps| i64::from(steps.max(1)) - 1);
    // Whether keys come before queries is known only where a sum over one of them is.
    let orders = if past.is_some() { &[false, true][..] } else { &[false] };
    let mut refused: Option<((bool, usize), StreamError)> = None;
    for time in candidates(graph, options)? {
        for keys_first in orders {
            let window = Window { past, keys_first: *keys_first };
            let Attempt { is_temporal, reached, result } = attempt(graph, weights, &time, &window);
            // The axis along which most of the graph makes sense, and not as on the axis of a batch, was meant.
            let (rank, error) = match result {
                Ok(streaming) if is_temporal || is_stated => return Ok(streaming),
                Ok(_) => ((false, 0), no_time_axis(&time, "no op looks back")),
                Err(error) if is_temporal || is_stated => ((true, reached), error),
                Err(error) => ((false, reached), no_time_axis(&time, &error.to_string())),
            };
            if refused.as_ref().is_none_or(|(best, _)| rank > *best) {
                refused = Some((rank, error));
            }
        }
    }
    Err(refused.map_or(StreamError::NoInput, |(_, error)| error))
}

fn no_time_axis(time: &Time, found: &str) -> StreamError {
    let (input, axis) = time.axes.iter().next().map(|(n, a)| (n.clone(), *a)).unwrap_or_default();
    StreamError::NoTimeAxis { input, axis, found: found.to_owned() }
}

/// What came of one choice of the time axis.
struct Attempt {
    /// Whether any op of the graph looks back along it.
    is_temporal: bool,
    /// How many nodes were walked.
    reached: usize,
    result: Result<Streaming, StreamError>,
}

fn attempt(graph: &Graph, weights: &Weights, time: &Time, window: &Window) -> Attempt {
    let piece = Dim::symbol(PIECE);
    let mut walker = match Walker::new(graph, weights, time, piece, window) {
        Ok(walker) => walker,
        Err(error) => return Attempt { is_temporal: false, reached: 0, result: Err(error) },
    };
    let walked = walker.walk();
    let (is_temporal, reached) = (walker.temporal(), walker.at.idx());
    let result = walked.and_then(|()| walker.finish()).and_then(|done| programs(done, time));
    Attempt { is_temporal, reached, result }
}

fn programs(done: walk::Done, time: &Time) -> Result<Streaming, StreamError> {
    let name = time.len.as_symbol().map_or(SEQ_LEN, Symbol::name);
    let mut symbols = BTreeMap::from([(Symbol::new(PIECE), Dim::symbol(name))]);
    if let Some(batch) = other_symbol(&done.states, name) {
        symbols.insert(batch, Dim::symbol(BATCH));
    }
    let prefill = ssmc_ir::edit::substitute(&done.graph, &symbols)?;
    symbols.insert(Symbol::new(PIECE), Dim::from(1));
    let step = ssmc_ir::edit::substitute(&done.graph, &symbols)?;
    let states: Vec<String> = done.states.iter().map(|s| s.name.clone()).collect();
    let program = |name, graph| Program { name, graph, states: states.clone() };
    Ok(Streaming {
        programs: vec![program("prefill", prefill), program("step", step)],
        states: done.states,
        weights: done.weights,
        kernels: done.kernels,
        time_axes: time.axes.clone(),
        max_context: done.max_context.and_then(|steps| u64::try_from(steps).ok()),
    })
}

/// The one symbol that the states' shapes have.
fn other_symbol(states: &[StateInfo], time: &str) -> Option<Symbol> {
    let mut symbols = std::collections::BTreeSet::new();
    for dim in states.iter().flat_map(|s| s.ty.shape.iter()) {
        dim.collect_symbols(&mut symbols);
    }
    let mut symbols = symbols.into_iter();
    match (symbols.next(), symbols.next()) {
        (Some(symbol), None) if symbol.name() != time => Some(symbol),
        _ => None,
    }
}

/// The choices of the time axis: what the caller says, or every extent of an input, symbols first.
fn candidates(graph: &Graph, options: &StreamOptions) -> Result<Vec<Time>, StreamError> {
    if !options.time_axes.is_empty() {
        return Ok(vec![stated(graph, &options.time_axes)?]);
    }
    let mut lens: Vec<&Dim> = Vec::new();
    for port in graph.inputs() {
        for dim in graph.ty(port.value).shape.iter() {
            if !lens.contains(&dim) && dim.as_const().is_none_or(|n| n > 1) {
                lens.push(dim);
            }
        }
    }
    lens.sort_by_key(|dim| dim.as_const().is_some());
    let mut all: Vec<Time> = Vec::new();
    let mut add = |len: &Dim, axis_of: &dyn Fn(&[usize]) -> Option<usize>| {
        let axis = |port: &ssmc_ir::Port| axis_of(&axes_of(graph, port.value, len));
        let axes = graph.inputs().iter().filter_map(|port| Some((port.name.clone(), axis(port)?)));
        let time = Time { len: len.clone(), axes: axes.collect() };
        if !time.axes.is_empty() && all.iter().all(|t| t.len != time.len || t.axes != time.axes) {
            all.push(time);
        }
    };
    for len in lens {
        let most = graph.inputs().iter().map(|p| graph.ty(p.value).rank()).max().unwrap_or(0);
        // The same axis of all inputs that have the extent there; else its first occurrence, or its second, ..
        for axis in 0..most {
            add(len, &|found| found.contains(&axis).then_some(axis));
        }
        for nth in 0..most {
            add(len, &|found| found.get(nth).or(found.last()).copied());
        }
    }
    Ok(all)
}

fn axes_of(graph: &Graph, value: ssmc_ir::ValueId, len: &Dim) -> Vec<usize> {
    graph.ty(value).shape.iter().enumerate().filter(|(_, d)| *d == len).map(|(axis, _)| axis).collect()
}

fn stated(graph: &Graph, axes: &BTreeMap<String, usize>) -> Result<Time, StreamError> {
    let mut len: Option<Dim> = None;
    for (name, axis) in axes {
        let fault = |message: String| StreamError::TimeAxis { input: name.clone(), axis: *axis, message };
        let input = graph.input(name).ok_or_else(|| fault("there is no such input".into()))?;
        let shape = &graph.ty(input).shape;
        let dim = shape.get(*axis).ok_or_else(|| fault(format!("the input is {shape}")))?;
        match &len {
            Some(len) if len != dim => return Err(fault(format!("expected extent {len}, found {dim}"))),
            _ => len = Some(dim.clone()),
        }
    }
    let len = len.ok_or(StreamError::NoInput)?;
    Ok(Time { len, axes: axes.clone() })
}

#[cfg(test)]
mod tests;
