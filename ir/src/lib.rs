//! The graph IR of ssmc: types, symbolic extents, ops, graphs, text form, verifier and reference interpreter.
//!
//! A [`Graph`] is a pure data-flow function over tensors. Nodes apply an [`Op`](ops::Op); each op says in one file what it takes,
//! what it gives and what it means. This crate knows no file format and no target.

pub mod builder;
pub mod count;
pub mod diag;
pub mod dim;
pub mod edit;
pub mod entity;
pub mod graph;
pub mod interp;
pub mod loc;
pub mod model;
pub mod ops;
pub mod plan;
#[cfg(test)]
mod random;
pub mod scalar;
pub mod stage;
pub mod tensor;
#[cfg(test)]
mod testing;
pub mod text;
pub mod types;
pub mod verify;
pub mod weights;

pub use builder::{BuildError, GraphBuilder};
pub use diag::{Diagnostic, Severity};
pub use dim::{Atom, Bindings, Dim, DimFn, Symbol};
pub use edit::{EditError, Rewriter};
pub use entity::{Entity, LocId, NodeId, PrimaryMap, ValueId};
pub use graph::{Def, Graph, Node, Port};
pub use interp::{InterpError, Interpreter, Precision, Recording};
pub use loc::{Loc, LocTable};
pub use model::{Model, ModelMeta};
pub use plan::{Group, Place, Plan, Region};
pub use stage::Stage;
pub use tensor::{Complex, Data, Tensor, TensorError};
pub use text::{TextError, parse};
pub use types::{DType, Shape, TensorType};
pub use verify::{verify, verify_weights};
pub use weights::{Bytes, Weight, Weights};
