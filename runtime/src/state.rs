//! The recurrent state of a batch of sequences.

use std::collections::VecDeque;
use std::sync::Arc;

use ssmc_artifact::{DType, Manifest, NamedArray, StateBlob, StateKind, decode_state, encode_state};

use crate::code::BufPtr;
use crate::error::RuntimeError;
use crate::memory::{ALIGN, AlignedBytes, MemoryLimit};
use crate::plan::Region;
use crate::symbols;
use crate::tensor::{TensorRef, byte_len};

/// What the states of a session have in common.
#[derive(Debug)]
pub(crate) struct StateLayout {
    model_hash: Vec<u8>,
    entries: Vec<Entry>,
    batch_symbol: Option<usize>,
    n_symbols: usize,
    max_batch: usize,
    depth: usize,
}

#[derive(Debug, PartialEq)]
struct Entry {
    name: String,
    dtype: DType,
    shape: Vec<ssmc_artifact::Expr>,
    in_place: bool,
}

/// A state tensor within the memory of a generation.
#[derive(Clone, Debug)]
struct Placed {
    dims: Vec<usize>,
    offset: usize,
    len: usize,
}

/// All state tensors after some call.
#[derive(Clone, Debug)]
struct Generation {
    memory: AlignedBytes,
    position: u64,
}

/// The recurrent state of a batch of sequences that move together, and the states before the last calls.
///
/// A call reads the newest generation and writes the next one, so that undoing a call copies nothing and a
/// call that fails leaves the state as it was. All generations are allocated when the state is made. A clone
/// is an independent copy: a fork of the sequences.
#[derive(Clone, Debug)]
pub struct State {
    layout: Arc<StateLayout>,
    batch: usize,
    placed: Vec<Placed>,
    /// Oldest first; the last one is the present.
    history: VecDeque<Generation>,
    free: Vec<AlignedBytes>,
}

impl StateLayout {
    pub(crate) fn new(
        manifest: &Manifest,
        ranges: &[(i64, i64)],
        depth: usize,
    ) -> Result<Self, RuntimeError> {
        let growing = manifest.states.iter().find(|state| state.kind() == StateKind::Growing);
        if let Some(state) = growing {
            return Err(RuntimeError::Unsupported { what: format!("growing state {}", state.name) });
        }
        let entries = manifest
            .states
            .iter()
            .map(|state| Entry {
                name: state.name.clone(),
                dtype: state.dtype(),
                shape: state.shape.clone(),
                in_place: state.in_place,
            })
            .collect();
        let batch_symbol = symbols::batch_symbol(manifest);
        let max_batch = batch_symbol.map_or(1, |symbol| ranges[symbol].1 as usize);
        let (model_hash, n_symbols) = (manifest.model_hash.clone(), ranges.len());
        Ok(Self { model_hash, entries, batch_symbol, n_symbols, max_batch, depth })
    }

    /// Bytes of the state of as many sequences as a session is planned for.
    #[cfg(feature = "cuda")]
    pub(crate) fn most_bytes(&self) -> Result<usize, RuntimeError> {
        self.place(self.max_batch).map(|(_, len)| len)
    }

    /// The state tensors for `batch` sequences one after another, and their length together.
    fn place(&self, batch: usize) -> Result<(Vec<Placed>, usize), RuntimeError> {
        let mut values = vec![0; self.n_symbols];
        if let Some(symbol) = self.batch_symbol {
            values[symbol] = batch as i64;
        }
        let mut end = 0usize;
        let mut placed = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let size = |source| RuntimeError::Size { what: format!("state {}", entry.name), source };
            let dims = entry
                .shape
                .iter()
                .map(|dim| dim.eval(&values).map(|dim| usize::try_from(dim).unwrap_or(0)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(size)?;
            let len = byte_len(entry.dtype, &dims)?;
            let next = end.checked_add(len).and_then(|next| next.checked_next_multiple_of(ALIGN));
            let next = next.ok_or_else(|| size(ssmc_artifact::ExprError::Overflow))?;
            placed.push(Placed { dims, offset: end, len });
            end = next;
        }
        Ok((placed, end))
    }
}

impl State {
    pub(crate) fn new(
        layout: &Arc<StateLayout>,
        batch: usize,
        limit: MemoryLimit,
    ) -> Result<Self, RuntimeError> {
        if batch == 0 || batch > layout.max_batch {
            return Err(mismatch("batch", format!("1 to {}", layout.max_batch), batch));
        }
        let (placed, len) = layout.place(batch)?;
        // The present and `depth` past generations, and one to write; blocks of a prefill alternate between
        // two.
        let n_generations = layout.depth.saturating_add(2).max(3);
        let total = (len as u64).saturating_mul(n_generations as u64);
        limit.check("the state with its rollback generations", total)?;
        let mut free = Vec::new();
        for _ in 0..n_generations {
            free.push(limit.allocate("the state", len as u64)?);
        }
        let present = free.pop().expect("there are at least three generations");
        let history = VecDeque::from([Generation { memory: present, position: 0 }]);
        let mut state = Self { layout: Arc::clone(layout), batch, placed, history, free };
        state.history.reserve_exact(n_generations);
        Ok(state)
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens that each sequence has read.
    pub fn position(&self) -> u64 {
        self.present().position
    }

    /// Bytes of the state proper, without the generations kept to undo calls.
    pub fn byte_len(&self) -> usize {
        self.placed.iter().map(|placed| placed.len).sum()
    }

    /// How many calls can be undone.
    pub fn rollback_available(&self) -> usize {
        self.history.len() - 1
    }

    /// Undoes the last `n_calls` calls of `prefill`, `step` or [`crate::Session::run_stateful`].
    ///
    /// # Errors
    /// If fewer calls are kept: those since the state was made, at most `rollback_depth`.
    pub fn rollback(&mut self, n_calls: usize) -> Result<(), RuntimeError> {
        let available = self.rollback_available();
        if n_calls > available {
            return Err(RuntimeError::Rollback { found: n_calls, available });
        }
        for undone in self.history.drain(available + 1 - n_calls..) {
            self.free.push(undone.memory);
        }
        Ok(())
    }

    /// Names of the state tensors and what they hold now.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorRef<'_>)> {
        let memory = self.current().as_slice();
        self.layout.entries.iter().zip(&self.placed).map(move |(entry, placed)| {
            let bytes = &memory[placed.offset..placed.offset + placed.len];
            let tensor = TensorRef::from_bytes(entry.dtype, &placed.dims, bytes);
            (entry.name.as_str(), tensor.expect("state tensors are placed by dtype and dims"))
        })
    }

    /// The state in a form that any session of the same model can load, on any machine. The generations kept
    /// to undo calls are not saved.
    pub fn save(&self) -> Vec<u8> {
        let states = self.tensors().map(|(name, tensor)| NamedArray {
            name: name.to_owned(),
            dtype: tensor.dtype().into(),
            dims: tensor.dims().iter().map(|&dim| dim as u64).collect(),
            data: tensor.bytes().to_vec(),
        });
        encode_state(&StateBlob {
            model_hash: self.layout.model_hash.clone(),
            position: self.position(),
            batch: self.batch as u64,
            states: states.collect(),
        })
    }

    pub(crate) fn load(
        layout: &Arc<StateLayout>,
        bytes: &[u8],
        limit: MemoryLimit,
    ) -> Result<Self, RuntimeError> {
        let blob = decode_state(bytes)?;
        if blob.model_hash != layout.model_hash {
            return Err(mismatch("model hash", hex(&layout.model_hash), hex(&blob.model_hash)));
        }
        let mut state = Self::new(layout, usize::try_from(blob.batch).unwrap_or(usize::MAX), limit)?;
        if blob.states.len() != layout.entries.len() {
            return Err(mismatch("number of tensors", layout.entries.len(), blob.states.len()));
        }
        let present = state.history.back_mut().expect("a state has a present");
        present.position = blob.position;
        for ((array, entry), placed) in blob.states.iter().zip(&layout.entries).zip(&state.placed) {
            let describe = |name: &str, dtype, dims: &[u64]| format!("{name}: {dtype}{dims:?}");
            let dims: Vec<u64> = placed.dims.iter().map(|&dim| dim as u64).collect();
            let expected = describe(&entry.name, entry.dtype, &dims);
            let found = describe(&array.name, array.dtype(), &array.dims);
            if expected != found {
                return Err(mismatch("tensor", expected, found));
            }
            if array.data.len() != placed.len {
                return Err(mismatch(&format!("bytes of {}", entry.name), placed.len, array.data.len()));
            }
            present.memory.as_mut_slice()[placed.offset..placed.offset + placed.len]
                .copy_from_slice(&array.data);
        }
        Ok(state)
    }

    /// Checks that the state was made for sessions with `layout`.
    pub(crate) fn check_layout(&self, layout: &Arc<StateLayout>) -> Result<(), RuntimeError> {
        let (own, other) = (&self.layout, layout);
        if Arc::ptr_eq(own, other) {
            return Ok(());
        }
        if own.model_hash != other.model_hash {
            return Err(mismatch("model hash", hex(&other.model_hash), hex(&own.model_hash)));
        }
        if own.entries != other.entries {
            return Err(mismatch("tensors", format!("{:?}", other.entries), format!("{:?}", own.entries)));
        }
        Ok(())
    }

    fn present(&self) -> &Generation {
        self.history.back().expect("a state has a present")
    }

    pub(crate) fn current(&self) -> &AlignedBytes {
        &self.present().memory
    }

    /// Memory to write a generation to: unused, or that of the oldest generation.
    pub(crate) fn take_free(&mut self) -> AlignedBytes {
        self.free.pop().unwrap_or_else(|| {
            self.history.pop_front().expect("at most two generations are taken, and three exist").memory
        })
    }

    /// Gives back what [`State::take_free`] gave.
    pub(crate) fn recycle(&mut self, memory: AlignedBytes) {
        self.free.push(memory);
    }

    /// Makes `memory` the present, `n_tokens` further on.
    pub(crate) fn commit(&mut self, memory: AlignedBytes, n_tokens: u64) {
        let position = self.position().saturating_add(n_tokens);
        self.history.push_back(Generation { memory, position });
        while self.history.len() > self.layout.depth + 1 {
            let oldest = self.history.pop_front().expect("the history is not empty");
            self.free.push(oldest.memory);
        }
    }

    /// A call that reads `before` and writes `after`.
    pub(crate) fn turn<'a>(&'a self, before: &'a AlignedBytes, after: &'a mut AlignedBytes) -> Turn<'a> {
        Turn { state: self, before: before.as_slice(), after: after.as_mut_slice() }
    }
}

/// The state's part in one call.
pub(crate) struct Turn<'a> {
    state: &'a State,
    before: &'a [u8],
    after: &'a mut [u8],
}

impl Turn<'_> {
    pub(crate) fn batch(&self) -> usize {
        self.state.batch
    }

    /// The memory that kernels get; tensors that are updated in place are copied first.
    pub(crate) fn memory(&mut self) -> StateMemory<'_> {
        for (entry, placed) in self.state.layout.entries.iter().zip(&self.state.placed) {
            let range = placed.offset..placed.offset + placed.len;
            if entry.in_place {
                self.after[range.clone()].copy_from_slice(&self.before[range]);
            }
        }
        let (before, after) = (BufPtr::read(self.before), BufPtr::write(self.after));
        StateMemory { state: self.state, before, after }
    }

    /// [`Turn::memory`] for copies of the state before and after the call.
    #[cfg(feature = "cuda")]
    pub(crate) fn memory_at(&mut self, [before, after]: [BufPtr; 2]) -> StateMemory<'_> {
        StateMemory { before, after, ..self.memory() }
    }

    /// The bytes of the state before and after the call.
    #[cfg(feature = "cuda")]
    pub(crate) fn bytes(&mut self) -> (&[u8], &mut [u8]) {
        (self.before, self.after)
    }
}

/// Where the state tensors lie before and after a call.
pub(crate) struct StateMemory<'a> {
    state: &'a State,
    before: BufPtr,
    after: BufPtr,
}

impl StateMemory<'_> {
    /// Tensor `index` as kernels read it.
    pub(crate) fn read(&self, index: usize) -> Region {
        let base = if self.state.layout.entries[index].in_place { self.after } else { self.before };
        self.region(base, index)
    }

    /// Tensor `index` as kernels write it.
    pub(crate) fn write(&self, index: usize) -> Region {
        self.region(self.after, index)
    }

    fn region(&self, base: BufPtr, index: usize) -> Region {
        let placed = &self.state.placed[index];
        Region { start: base.offset(placed.offset), len: placed.len }
    }
}

fn mismatch(what: &str, expected: impl ToString, found: impl ToString) -> RuntimeError {
    RuntimeError::StateMismatch {
        what: what.to_owned(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
