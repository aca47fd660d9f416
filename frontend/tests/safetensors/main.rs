//! Model folders: refused with their faults, or imported and evaluated.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod corpus;
mod faults;
mod folders;
mod npz;
mod numerics;
mod reference;
