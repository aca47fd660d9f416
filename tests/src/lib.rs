//! Filetests, and kernels against their machine code. See CONTRIBUTING.md for the form of filetests.

pub mod filetest;
