//! The element type in which recurrent state is kept between calls.
//!
//! [`keep_in`] takes a graph and gives one whose states are inputs and outputs of a half type. Each input is widened by a
//! cast and each output rounded by one, so that what is computed stays in f32 and a call rounds every element of the state
//! once. Kernels read such a state through the first cast, element by element, and store what the second one makes.

use crate::names::{self, UnknownName};
use ssmc_ir::edit::{EditError, Rewriter, dce};
use ssmc_ir::ops::{Op, Reshape};
use ssmc_ir::{DType, Graph, GraphBuilder, TensorType, ValueId};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The element type of states between calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateType {
    /// As the graph says.
    #[default]
    F32,
    /// States in f32 are kept in bf16.
    Bf16,
    /// States in f32 are kept in f16.
    F16,
}

impl StateType {
    /// The spellings that users may write.
    pub const NAMES: [&'static str; 3] = ["f32", "bf16", "f16"];

    /// The half type that this is, if it is one.
    pub fn half(self) -> Option<DType> {
        match self {
            StateType::F32 => None,
            StateType::Bf16 => Some(DType::BF16),
            StateType::F16 => Some(DType::F16),
        }
    }
}

impl fmt::Display for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

impl FromStr for StateType {
    type Err = UnknownName;

    /// Reads one of [`StateType::NAMES`].
    ///
    /// # Errors
    /// Any other name.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        names::choose(&[StateType::F32, StateType::Bf16, StateType::F16], &Self::NAMES, name)
    }
}

/// The graph with the inputs and outputs of these names in a half type where they were f32. Others, such as states that
/// count, stay as they are.
///
/// # Errors
/// The graph cannot be rebuilt.
pub fn keep_in(half: DType, graph: &Graph, states: &[String]) -> Result<Graph, EditError> {
    let names: BTreeSet<&str> = states.iter().map(String::as_str).collect();
    let is_kept = |name: &str, value: ValueId| names.contains(name) && graph.ty(value).dtype == DType::F32;
    let mut r = Rewriter::without_inputs(graph);
    let mut widened = Vec::new();
    for port in graph.inputs() {
        let ty = graph.ty(port.value);
        let value = if is_kept(&port.name, port.value) {
            let value = r.builder().input(&port.name, TensorType { dtype: half, ..ty.clone() });
            widened.push((port.value, value));
            value
        } else {
            r.builder().input(&port.name, ty.clone())
        };
        r.set(port.value, value);
    }
    for (input, value) in widened {
        let wide = r.builder().cast(value, DType::F32)?;
        r.set(input, wide);
    }
    for (_, node) in graph.nodes() {
        r.copy(node)?;
    }
    let mut outputs = Vec::new();
    for port in graph.outputs() {
        let value = match is_kept(&port.name, port.value) {
            true => round(&mut r, port.value, half)?,
            false => r.get(port.value)?,
        };
        outputs.push((port.name.clone(), value));
    }
    let mut builder = GraphBuilder::extend(r.finish_with(&[])?);
    for (name, value) in outputs {
        builder.output(&name, value);
    }
    // What showed the exact states is not needed any more, and would keep kernels from storing rounded ones.
    dce(&builder.finish())
}

/// A value rounded before the reshapes that show it, so that the kernel behind them can store it.
fn round(r: &mut Rewriter<'_>, mut value: ValueId, half: DType) -> Result<ValueId, EditError> {
    let graph = r.old();
    let mut reshapes: Vec<&Reshape> = Vec::new();
    while let Some(node) = graph.def_node(value)
        && let (Op::Reshape(op), Some(Some(inner))) = (&node.op, node.operands.first())
    {
        reshapes.push(op);
        value = *inner;
    }
    let mut rounded = r.get(value)?;
    if let Some(node) = graph.def_node(value) {
        r.builder().set_loc_id(node.loc);
    }
    rounded = r.builder().cast(rounded, half)?;
    for op in reshapes.into_iter().rev() {
        rounded = r.builder().op(op.clone(), &[rounded])?;
    }
    Ok(rounded)
}

#[cfg(test)]
mod tests;
