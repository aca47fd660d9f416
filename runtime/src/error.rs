//! What can go wrong when an artefact is loaded or run.

use std::path::PathBuf;

use ssmc_artifact::{ArtifactError, DType, ExprError};

use crate::tensor::TensorError;

/// Why loading or running failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The artefact is not valid.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The file system or the memory mapping refused.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The artefact has no code for the level that was asked for.
    #[error("the artefact has no code for level {level}, expected one of {known:?}")]
    UnknownLevel {
        /// The level asked for.
        level: String,
        /// The artefact's levels.
        known: Vec<String>,
    },
    /// The machine cannot run the level that was asked for.
    #[error("this machine cannot run level {level}: it lacks {missing:?}")]
    LevelUnsupported {
        /// The level asked for.
        level: String,
        /// Architecture or processor features that the machine lacks.
        missing: Vec<String>,
    },
    /// The machine can run none of the artefact's levels.
    #[error("this machine can run no level of the artefact: {}", missing.join("; "))]
    NoLevel {
        /// For each level what the machine lacks.
        missing: Vec<String>,
    },
    /// The GPU or its driver refused.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] crate::cuda::GpuError),
    /// A program needs a kernel that the chosen level does not have.
    #[error("kernel {kernel} has no code for level {level}")]
    KernelMissing {
        /// The kernel.
        kernel: String,
        /// The level.
        level: String,
    },
    /// The artefact needs something that this runtime does not do.
    #[error("unsupported: {what}")]
    Unsupported {
        /// What it needs.
        what: String,
    },
    /// A symbol has no greatest value, so no memory can be planned for it.
    #[error("symbol {symbol} has no maximum: set one in the session options")]
    NoMaximum {
        /// The symbol.
        symbol: String,
    },
    /// A session option is out of range or names nothing.
    #[error("session option {option}: expected {expected}, found {found}")]
    Option {
        /// The option.
        option: String,
        /// What is legal.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The memory needed exceeds the limit or what the machine gives.
    #[error("{what} needs {expected} bytes of memory, the limit is {limit}")]
    Memory {
        /// What needs it.
        what: String,
        /// Bytes needed.
        expected: u64,
        /// The limit.
        limit: u64,
    },
    /// A size cannot be computed.
    #[error("size of {what}")]
    Size {
        /// What has that size.
        what: String,
        /// The cause.
        #[source]
        source: ExprError,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// A thread of the pool panicked; the results of the run are void.
    #[error("a worker thread panicked in kernel {kernel}")]
    Panic {
        /// The kernel.
        kernel: String,
    },
    /// A call on this state failed when it had written a part of it over what was there before.
    #[error("the state is lost: a call failed while it updated the state in place")]
    StateLost,
    /// The artefact has no such program.
    #[error("no program {program}, expected one of {known:?}")]
    UnknownProgram {
        /// The program asked for.
        program: String,
        /// The artefact's programs.
        known: Vec<String>,
    },
    /// A stateful program was run without a state, or the other way round.
    #[error("program {program} {}", if *stateful { "needs a state" } else { "takes no state" })]
    Stateful {
        /// The program.
        program: String,
        /// Whether it needs a state.
        stateful: bool,
    },
    /// An input or output that the program has was not given.
    #[error("program {program}: {what} {name} is missing")]
    TensorMissing {
        /// The program.
        program: String,
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// An input or output was given that the program does not have, or twice.
    #[error("program {program}: unexpected {what} {name}, expected {known:?} once each")]
    TensorUnexpected {
        /// The program.
        program: String,
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The names that the program has.
        known: Vec<String>,
    },
    /// A tensor has the wrong element type.
    #[error("program {program}: {what} {name} has the wrong dtype: expected {expected}, found {found}")]
    DType {
        /// The program.
        program: String,
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The program's dtype.
        expected: DType,
        /// The dtype given.
        found: DType,
    },
    /// A sequence is longer than what a state remembers.
    #[error("the model remembers {max} steps of a sequence: expected at most {}, found {found}", max.saturating_sub(*position))]
    Context {
        /// The most steps.
        max: u64,
        /// Those so far.
        position: u64,
        /// Those of the call.
        found: u64,
    },
    /// A tensor has the wrong shape.
    #[error("program {program}: {what} {name} has the wrong shape: expected {expected}, found {found:?}")]
    Shape {
        /// The program.
        program: String,
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The program's shape, such as `[batch, seq_len, 64]`.
        expected: String,
        /// The shape given.
        found: Vec<usize>,
    },
    /// Two inputs, or an input and the state, disagree about a symbol.
    #[error("program {program}: input {name} has {symbol} = {found}, expected {expected} as {other} has it")]
    SymbolConflict {
        /// The program.
        program: String,
        /// The input.
        name: String,
        /// The symbol.
        symbol: String,
        /// Where the earlier value came from.
        other: String,
        /// The earlier value.
        expected: i64,
        /// The value of this input.
        found: i64,
    },
    /// A symbol's value is outside what the session was planned for.
    #[error(
        "program {program}: {symbol} = {found}, expected {min} to {max}{}",
        if *divisibility > 1 { format!(" in steps of {divisibility}") } else { String::new() }
    )]
    SymbolRange {
        /// The program.
        program: String,
        /// The symbol.
        symbol: String,
        /// Least value.
        min: i64,
        /// Greatest value: the session's limit or the model's.
        max: i64,
        /// The value must be a multiple of this; 0 and 1 allow any.
        divisibility: i64,
        /// The value found.
        found: i64,
    },
    /// An element of an integer input is out of bounds.
    #[error("program {program}: input {name}[{index}] = {found}, expected {min} to {max}")]
    Value {
        /// The program.
        program: String,
        /// The input.
        name: String,
        /// Index in row-major order.
        index: usize,
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
        /// The value.
        found: i64,
    },
    /// A launch refers to memory outside its buffer.
    #[error(
        "program {program}: launch {launch} is out of bounds: offset {offset} of {length} bytes, grid {grid}"
    )]
    Launch {
        /// The program.
        program: String,
        /// Index of the launch.
        launch: usize,
        /// The offset computed.
        offset: i64,
        /// The length of the buffer.
        length: usize,
        /// Blocks.
        grid: i64,
    },
    /// A slot that was never given out, or has been given back.
    #[error("there is no slot {id}")]
    NoSlot {
        /// The slot.
        id: u64,
    },
    /// A slot that a step names twice.
    #[error("slot {id} is named twice")]
    SlotTwice {
        /// The slot.
        id: u64,
    },
    /// No slot is left.
    #[error("all {capacity} slots are taken")]
    SlotsFull {
        /// How many there are.
        capacity: usize,
    },
    /// Tokens do not divide into a batch.
    #[error("{found} tokens do not divide into {batch} sequences of at least one token")]
    Tokens {
        /// Number of sequences.
        batch: usize,
        /// Number of tokens.
        found: usize,
    },
    /// The offsets of packed sequences are not 0 = c0 <= c1 <= ... = number of tokens.
    #[error("cu_seqlens[{index}] = {found}, expected {expected}")]
    CuSeqlens {
        /// Index in `cu_seqlens`.
        index: usize,
        /// What is legal there.
        expected: String,
        /// The value.
        found: u64,
    },
    /// A rollback goes deeper than the snapshots kept.
    #[error("cannot roll back {found} calls, {available} are kept")]
    Rollback {
        /// Calls asked for.
        found: usize,
        /// Calls that can be undone.
        available: usize,
    },
    /// A state belongs to another model or does not fit the session.
    #[error("state does not fit: {what}: expected {expected}, found {found}")]
    StateMismatch {
        /// What differs.
        what: String,
        /// The session's value.
        expected: String,
        /// The state's value.
        found: String,
    },
    /// A tensor was described wrongly.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
