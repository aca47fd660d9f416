//! The recurrent state of a batch of sequences.

use std::collections::VecDeque;
use std::sync::Arc;

use ssmc_artifact::{DType, Manifest, NamedArray, StateBlob, StateKind, decode_state, encode_state};

pub(crate) mod slots;
mod store;

use crate::code::BufPtr;
use crate::error::RuntimeError;
use crate::memory::{ALIGN, MemoryLimit};
use crate::plan::Region;
use crate::symbols;
use crate::tensor::{Tensor, byte_len};
pub(crate) use store::{Place, Store};

/// What the states of a session have in common.
#[derive(Debug)]
pub(crate) struct StateLayout {
    model_hash: Vec<u8>,
    entries: Vec<Entry>,
    batch_symbol: Option<usize>,
    n_symbols: usize,
    max_batch: usize,
    depth: usize,
    place: Place,
    /// Calls write the state over the one before.
    in_place: bool,
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
    memory: Store,
    position: u64,
}

/// The recurrent state of a batch of sequences that move together, and the states before the last calls.
///
/// A call reads the newest generation and writes the next one, so that undoing a call copies nothing and a
/// call that fails leaves the state as it was. Where no call can be undone, a CPU writes the state over the one before if
/// the kernels of all programs can: a step then touches half of the memory, and a kernel that fails leaves no state. The
/// generations lie where the kernels run: on CPUs they are allocated
/// when the state is made, on a GPU when they are needed first. A clone is an independent copy: a fork of the sequences;
/// on a GPU the copies share what neither has changed.
#[derive(Debug)]
pub struct State {
    layout: Arc<StateLayout>,
    batch: usize,
    placed: Vec<Placed>,
    /// Oldest first; the last one is the present.
    history: VecDeque<Generation>,
    free: Vec<Store>,
    /// Bytes of a generation, and how many were allocated.
    len: usize,
    allocated: usize,
    limit: MemoryLimit,
    /// A call failed when it had written a part of the state over the one before.
    is_lost: bool,
}

impl Clone for State {
    fn clone(&self) -> Self {
        // What lies on a device is shared; what is free is not.
        let free = if self.layout.place.is_lazy() { Vec::new() } else { self.free.clone() };
        Self {
            layout: Arc::clone(&self.layout),
            batch: self.batch,
            placed: self.placed.clone(),
            allocated: self.history.len() + free.len(),
            history: self.history.clone(),
            free,
            len: self.len,
            limit: self.limit,
            is_lost: self.is_lost,
        }
    }
}

impl StateLayout {
    pub(crate) fn new(
        manifest: &Manifest,
        ranges: &[(i64, i64)],
        (depth, in_place): (usize, bool),
        place: Place,
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
        Ok(Self { model_hash, entries, batch_symbol, n_symbols, max_batch, depth, place, in_place })
    }

    /// Checks that what lies in `memory` is a state of sessions with the layout `other`.
    fn check(self: &Arc<Self>, other: &Arc<StateLayout>, memory: &Store) -> Result<(), RuntimeError> {
        let own = self;
        if Arc::ptr_eq(own, other) {
            return Ok(());
        }
        if own.model_hash != other.model_hash {
            return Err(mismatch("model hash", hex(&other.model_hash), hex(&own.model_hash)));
        }
        if own.entries != other.entries {
            return Err(mismatch("tensors", format!("{:?}", other.entries), format!("{:?}", own.entries)));
        }
        if !memory.is_at(&other.place) {
            let moved = "a state of this session (`save` and `load_state` move it)";
            return Err(mismatch("device", moved, "one of another device"));
        }
        Ok(())
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
        let n_generations = generations(layout);
        let total = (len as u64).saturating_mul(n_generations as u64);
        let now = if layout.place.is_lazy() { 1 } else { n_generations };
        if now > 1 {
            limit.check("the state with its rollback generations", total)?;
        }
        let mut free = Vec::new();
        for _ in 0..now {
            free.push(layout.place.allocate(len, limit)?);
        }
        let present = free.pop().expect("one generation at least was allocated");
        let history = VecDeque::from([Generation { memory: present, position: 0 }]);
        let layout = Arc::clone(layout);
        let mut state =
            Self { layout, batch, placed, history, free, len, allocated: now, limit, is_lost: false };
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
        for _ in 0..n_calls {
            let undone = self.history.pop_back().expect("as many calls can be undone");
            self.recycle(undone.memory);
        }
        Ok(())
    }

    /// Names of the state tensors and what they hold now, copied from where the kernels run.
    ///
    /// # Errors
    /// If the driver of a GPU reports a fault, or a call failed when it had written a part of the state in place.
    pub fn tensors(&self) -> Result<Vec<(&str, Tensor)>, RuntimeError> {
        self.check_present()?;
        let memory = self.current().bytes()?;
        let entries = self.layout.entries.iter().zip(&self.placed);
        entries
            .map(|(entry, placed)| {
                let bytes = &memory[placed.offset..placed.offset + placed.len];
                Ok((entry.name.as_str(), Tensor::from_bytes(entry.dtype, &placed.dims, bytes)?))
            })
            .collect()
    }

    /// The state in a form that any session of the same model can load, on any machine and device. The generations
    /// kept to undo calls are not saved.
    ///
    /// # Errors
    /// As [`State::tensors`].
    pub fn save(&self) -> Result<Vec<u8>, RuntimeError> {
        let states = self.tensors()?.into_iter().map(|(name, tensor)| NamedArray {
            name: name.to_owned(),
            dtype: tensor.dtype().into(),
            dims: tensor.dims().iter().map(|&dim| dim as u64).collect(),
            data: tensor.bytes().to_vec(),
        });
        Ok(encode_state(&StateBlob {
            model_hash: self.layout.model_hash.clone(),
            position: self.position(),
            batch: self.batch as u64,
            states: states.collect(),
        }))
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
            present.memory.write(placed.offset, &array.data)?;
        }
        Ok(state)
    }

    /// Checks that the state was made for sessions with `layout`.
    pub(crate) fn check_layout(&self, layout: &Arc<StateLayout>) -> Result<(), RuntimeError> {
        self.check_present()?;
        self.layout.check(layout, self.current())
    }

    fn check_present(&self) -> Result<(), RuntimeError> {
        if self.is_lost { Err(RuntimeError::StateLost) } else { Ok(()) }
    }

    fn present(&self) -> &Generation {
        self.history.back().expect("a state has a present")
    }

    pub(crate) fn current(&self) -> &Store {
        &self.present().memory
    }

    /// Memory to write a generation to: unused, new, or that of the oldest generation.
    pub(crate) fn take_free(&mut self) -> Result<Store, RuntimeError> {
        if let Some(memory) = self.free.pop() {
            return Ok(memory);
        }
        if self.allocated >= generations(&self.layout) && self.history.len() > 1 {
            let oldest = self.history.pop_front().expect("there are several");
            if oldest.memory.is_own() {
                return Ok(oldest.memory);
            }
            self.allocated -= 1;
        }
        let memory = self.layout.place.allocate(self.len, self.limit)?;
        self.allocated += 1;
        Ok(memory)
    }

    /// Takes back what [`State::take_free`] gave.
    pub(crate) fn recycle(&mut self, memory: Store) {
        if memory.is_own() {
            self.free.push(memory);
        } else {
            self.allocated -= 1;
        }
    }

    /// Makes `memory` the present, `n_tokens` further on.
    pub(crate) fn commit(&mut self, memory: Store, n_tokens: u64) {
        let position = self.position().saturating_add(n_tokens);
        self.history.push_back(Generation { memory, position });
        while self.history.len() > self.layout.depth + 1 {
            let oldest = self.history.pop_front().expect("the history is not empty");
            self.recycle(oldest.memory);
        }
    }

    /// Calls `run` for each of `n_blocks` parts of a call with the memory before and after it. Only if all succeed the
    /// state moves on, by `n_tokens`.
    pub(crate) fn transition<T>(
        &mut self,
        n_tokens: u64,
        n_blocks: usize,
        run: &mut dyn FnMut(Turn<'_>, usize) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        if self.layout.in_place {
            return self.transition_in_place(n_tokens, n_blocks, run);
        }
        let mut after = self.take_free()?;
        let mut result = run(self.turn(self.current(), &mut after), 0);
        for block in 1..n_blocks {
            if result.is_err() {
                break;
            }
            let next = match self.take_free() {
                Ok(next) => next,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            let before = std::mem::replace(&mut after, next);
            result = run(self.turn(&before, &mut after), block);
            self.recycle(before);
        }
        match result {
            Ok(_) => self.commit(after, n_tokens),
            Err(_) => self.recycle(after),
        }
        result
    }

    fn transition_in_place<T>(
        &mut self,
        n_tokens: u64,
        n_blocks: usize,
        run: &mut dyn FnMut(Turn<'_>, usize) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let Self { layout, placed, batch, history, .. } = self;
        let present = history.back_mut().expect("a state has a present");
        // Until a call has ended it is not known what the memory holds.
        self.is_lost = true;
        let mut block = 0;
        let result = loop {
            let after = &mut present.memory;
            let result = run(Turn { layout, placed, batch: *batch, before: None, after }, block);
            block += 1;
            if result.is_err() || block >= n_blocks {
                break result;
            }
        };
        if result.is_ok() {
            present.position = present.position.saturating_add(n_tokens);
        }
        // Errors but this one are found before the first kernel of a block starts.
        self.is_lost = result.is_err() && (block > 1 || matches!(result, Err(RuntimeError::Panic { .. })));
        result
    }

    /// A call that reads `before` and writes `after`.
    fn turn<'a>(&'a self, before: &'a Store, after: &'a mut Store) -> Turn<'a> {
        Turn { layout: &self.layout, placed: &self.placed, batch: self.batch, before: Some(before), after }
    }
}

/// How many generations a state has: those that calls can be undone to, the present, and one to write; three at least,
/// as calls in several parts take two. One, if calls write over it.
fn generations(layout: &StateLayout) -> usize {
    if layout.in_place { 1 } else { layout.depth.saturating_add(2).max(3) }
}

/// The state's part in one call.
pub(crate) struct Turn<'a> {
    layout: &'a StateLayout,
    placed: &'a [Placed],
    batch: usize,
    /// None if the state is updated in place.
    before: Option<&'a Store>,
    after: &'a mut Store,
}

impl Turn<'_> {
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// The memory that kernels get; tensors of this process that are updated in place are copied first.
    pub(crate) fn memory(&mut self) -> StateMemory<'_> {
        let (before, after) = match (self.before, &mut *self.after) {
            (None, Store::Host(after)) => {
                let after = BufPtr::write(after.as_mut_slice());
                (after, after)
            }
            (Some(Store::Host(before)), Store::Host(after)) => {
                let (before, after) = (before.as_slice(), after.as_mut_slice());
                for (entry, placed) in self.layout.entries.iter().zip(self.placed) {
                    let range = placed.offset..placed.offset + placed.len;
                    if entry.in_place {
                        after[range.clone()].copy_from_slice(&before[range]);
                    }
                }
                (BufPtr::read(before), BufPtr::write(after))
            }
            #[cfg(feature = "cuda")]
            (Some(Store::Device(before)), Store::Device(after)) => {
                (BufPtr::device(before.address(0)), BufPtr::device(after.address(0)))
            }
            #[cfg(feature = "cuda")]
            _ => unreachable!("the generations of a state lie in one place"),
        };
        StateMemory { layout: self.layout, placed: self.placed, before, after }
    }

    /// Copies on the device what kernels update in place.
    #[cfg(feature = "cuda")]
    pub(crate) fn copy_in_place(&self) -> Result<(), RuntimeError> {
        let (Some(Store::Device(before)), Store::Device(after)) = (self.before, &*self.after) else {
            return Ok(());
        };
        let entries = self.layout.entries.iter().zip(self.placed);
        for (_, placed) in entries.filter(|(entry, placed)| entry.in_place && placed.len > 0) {
            before.copy_to(placed.offset, (after, placed.offset), placed.len)?;
        }
        Ok(())
    }
}

/// Where the state tensors lie before and after a call.
pub(crate) struct StateMemory<'a> {
    layout: &'a StateLayout,
    placed: &'a [Placed],
    before: BufPtr,
    after: BufPtr,
}

impl StateMemory<'_> {
    /// Where the memory before and after begins.
    #[cfg(feature = "cuda")]
    pub(crate) fn addresses(&self) -> [u64; 2] {
        [self.before.address(), self.after.address()]
    }

    /// Tensor `index` as kernels read it.
    pub(crate) fn read(&self, index: usize) -> Region {
        let base = if self.layout.entries[index].in_place { self.after } else { self.before };
        self.region(base, index)
    }

    /// Tensor `index` as kernels write it.
    pub(crate) fn write(&self, index: usize) -> Region {
        self.region(self.after, index)
    }

    fn region(&self, base: BufPtr, index: usize) -> Region {
        let placed = &self.placed[index];
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
