//! Filetests, and ONNX models rewritten into equivalent ones. See CONTRIBUTING.md for the form of filetests.

pub mod filetest;
pub mod fuzz;
pub mod scramble;
