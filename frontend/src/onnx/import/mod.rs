//! One function per ONNX operator.

pub(crate) mod control;
pub(crate) mod convolution;
pub(crate) mod elementwise;
pub(crate) mod fourier;
pub(crate) mod layout;
pub(crate) mod logic;
pub(crate) mod norm;
pub(crate) mod pad;
pub(crate) mod product;
pub(crate) mod recurrent;
pub(crate) mod reduce;
pub(crate) mod scatter;
pub(crate) mod sources;
mod span;
pub(crate) mod split;
