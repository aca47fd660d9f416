//! Filetests, ONNX models rewritten into equivalent ones, and a grid of problems for GPUs. See CONTRIBUTING.md for the form of filetests.

pub mod filetest;
pub mod fuzz;
pub mod gpu_grid;
pub mod scramble;
