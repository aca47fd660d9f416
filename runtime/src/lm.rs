//! The programs of language models: tokens in, logits out.
//!
//! A model that takes part has programs `forward`, `prefill`, `step` or `forward_packed` with the input
//! `input_ids` (i32, i64 or u32; `[batch, seq_len]`, for `step` also `[batch]`) and the output `logits`;
//! `forward_packed` has the input `seq_idx` (i32, `[1, seq_len]`) too.

use ssmc_artifact::{DType, Manifest, Program, SymbolRole, TensorInfo};

use crate::error::RuntimeError;
use crate::session::{Outputs, Session};
use crate::state::State;
use crate::state::slots::{SlotId, Slots};
use crate::symbols;
use crate::tensor::{Tensor, TensorMut, TensorRef};

const INPUT_IDS: &str = "input_ids";
const SEQ_IDX: &str = "seq_idx";
const LOGITS: &str = "logits";
const CHOOSE: &str = "choose";

/// Bytes to stage the token ids and the sequence indices of any call.
pub(crate) fn staging<'a>(
    programs: impl Iterator<Item = &'a Program>,
    ranges: &[(i64, i64)],
) -> Result<(u64, u64), RuntimeError> {
    let (mut ids, mut seq_idx) = (0, 0);
    for info in programs.flat_map(|program| &program.inputs) {
        match info.name.as_str() {
            INPUT_IDS => ids = largest(info, ranges)?.max(ids),
            SEQ_IDX => seq_idx = largest(info, ranges)?.max(seq_idx),
            _ => {}
        }
    }
    Ok((ids, seq_idx))
}

/// Bytes of the largest tensor that `info` describes.
fn largest(info: &TensorInfo, ranges: &[(i64, i64)]) -> Result<u64, RuntimeError> {
    let size = |source| RuntimeError::Size { what: format!("input {}", info.name), source };
    let mut n_elements = 1u64;
    for dim in &info.shape {
        let most = dim.range(ranges).map_err(size)?.1.max(0) as u64;
        n_elements = n_elements.checked_mul(most).ok_or_else(|| size(ssmc_artifact::ExprError::Overflow))?;
    }
    info.dtype().byte_len(n_elements).ok_or_else(|| size(ssmc_artifact::ExprError::Overflow))
}

/// A rectangle of the caller's token ids: the columns `start..start + len` of `batch` rows of `stride`
/// tokens.
#[derive(Clone, Copy)]
struct Block<'a> {
    ids: &'a [u32],
    batch: usize,
    stride: usize,
    start: usize,
    len: usize,
}

impl<'a> Block<'a> {
    /// All tokens of `batch` sequences of one length, one after another in `ids`.
    fn whole(ids: &'a [u32], batch: usize) -> Result<Self, RuntimeError> {
        if batch == 0 || ids.is_empty() || !ids.len().is_multiple_of(batch) {
            return Err(RuntimeError::Tokens { batch, found: ids.len() });
        }
        let stride = ids.len() / batch;
        Ok(Self { ids, batch, stride, start: 0, len: stride })
    }

    fn tokens(self) -> impl Iterator<Item = u32> + 'a {
        let rows = self.ids.chunks_exact(self.stride);
        rows.flat_map(move |row| row[self.start..self.start + self.len].iter().copied())
    }
}

impl Session {
    /// Logits at every position of `batch` sequences, which follow one another in `ids`:
    /// `[batch, seq_len, vocab]`.
    pub fn forward(&mut self, batch: usize, ids: &[u32]) -> Result<Tensor, RuntimeError> {
        let block = Block::whole(ids, batch)?;
        let outputs =
            self.staged("forward", block, |session, ids| session.run("forward", &[(INPUT_IDS, ids)]))?;
        logits("forward", outputs)
    }

    /// Reads tokens into the state, the same number for each of its sequences, which follow one another in
    /// `ids`. Returns the logits at the last position: `[batch, vocab]`.
    ///
    /// Sequences longer than the session's `max_len` are read in blocks, with constant memory; for
    /// [`State::rollback`] that is one call still.
    pub fn prefill(&mut self, state: &mut State, ids: &[u32]) -> Result<Tensor, RuntimeError> {
        let whole = Block::whole(ids, state.batch())?;
        let block_len = self.block_len()?;
        let n_blocks = whole.stride.div_ceil(block_len);
        let outputs = self.transition(state, whole.stride as u64, n_blocks, |session, turn, index| {
            let start = index * block_len;
            let block = Block { start, len: block_len.min(whole.stride - start), ..whole };
            session.staged("prefill", block, |session, ids| {
                session.run_turn("prefill", turn, &[(INPUT_IDS, ids)])
            })
        })?;
        logits("prefill", outputs)
    }

    /// Reads one token per sequence into the state. Returns the logits: `[batch, vocab]`.
    pub fn step(&mut self, state: &mut State, ids: &[u32]) -> Result<Tensor, RuntimeError> {
        let block = one_each(state, ids)?;
        let outputs = self.transition(state, 1, 1, |session, turn, _| {
            session.staged("step", block, |session, ids| session.run_turn("step", turn, &[(INPUT_IDS, ids)]))
        })?;
        logits("step", outputs)
    }

    /// Decodes `n` tokens greedily: reads `ids`, one for each sequence, and then the most likely token each time. Returns
    /// what was chosen, `n` tokens for each sequence, one sequence after another; the last ones have not been read yet.
    ///
    /// On a GPU tokens stay on the device between steps, which start without waiting for each other. If a step fails the
    /// state is that behind the last one that did not.
    ///
    /// # Errors
    /// As [`Session::step`], and if the artefact has no program `choose`.
    pub fn generate(&mut self, state: &mut State, ids: &[u32], n: usize) -> Result<Vec<u32>, RuntimeError> {
        let batch = state.batch();
        one_each(state, ids)?;
        let mut by_step = Vec::with_capacity(n.saturating_mul(batch));
        #[cfg(feature = "cuda")]
        if let Some(tokens) = self.generate_on_gpu(state, ids, n)? {
            by_step = tokens;
        }
        let mut next = ids.to_vec();
        while by_step.len() < n * batch {
            let logits = self.step(state, &next)?;
            let chosen = self.run(CHOOSE, &[(LOGITS, logits.view())])?;
            let chosen = chosen.get(INPUT_IDS).ok_or_else(|| {
                let (program, name) = (CHOOSE.to_owned(), INPUT_IDS.to_owned());
                RuntimeError::TensorMissing { program, what: "output", name }
            })?;
            next = read_ids(chosen.dtype(), chosen.bytes())?;
            by_step.extend(&next);
        }
        Ok((0..batch).flat_map(|row| by_step[row..].iter().step_by(batch).copied()).collect())
    }

    /// All tokens that [`Session::generate`] chooses, those of a step together, if its programs run on a GPU.
    #[cfg(feature = "cuda")]
    fn generate_on_gpu(
        &mut self,
        state: &mut State,
        ids: &[u32],
        n: usize,
    ) -> Result<Option<Vec<u32>>, RuntimeError> {
        if n == 0 || self.gpu().is_none() {
            return Ok(None);
        }
        let batch = state.batch();
        let block = one_each(state, ids)?;
        let begun = self.staged("step", block, |session, ids| {
            let Some(plans) = session.bind_greedy(batch, &[(INPUT_IDS, ids)])? else { return Ok(None) };
            Ok(Some((session.begin_greedy(plans, ids, n)?, ids.dtype())))
        })?;
        let Some((mut greedy, dtype)) = begun else { return Ok(None) };
        for _ in 0..n {
            self.transition(state, 1, 1, |session, turn, _| session.greedy_step(&mut greedy, turn))?;
        }
        let bytes = self.end_greedy(&greedy)?;
        read_ids(dtype, &bytes).map(Some)
    }

    /// [`Session::step`] into the caller's `logits`.
    pub fn step_into(
        &mut self,
        state: &mut State,
        ids: &[u32],
        logits: TensorMut<'_>,
    ) -> Result<(), RuntimeError> {
        let block = one_each(state, ids)?;
        let mut outputs = [(LOGITS, logits)];
        self.transition(state, 1, 1, |session, turn, _| {
            session.staged("step", block, |session, ids| {
                session.run_into_turn("step", turn, &[(INPUT_IDS, ids)], &mut outputs)
            })
        })
    }

    /// Reads one token each into some of the slots. Returns the logits in the order in which the slots are named:
    /// `[slots, vocab]`.
    ///
    /// # Errors
    /// If a slot is unknown or named twice, or none is; the slots are unchanged then.
    pub fn step_slots(
        &mut self,
        slots: &mut Slots,
        tokens: &[(SlotId, u32)],
    ) -> Result<Tensor, RuntimeError> {
        let (ids, rows) = slots.gather(tokens)?;
        let block = Block::whole(&ids, ids.len())?;
        let outputs = self.slots_transition(slots, ids.len(), |session, turn| {
            session.staged("step", block, |session, ids| session.run_turn("step", turn, &[(INPUT_IDS, ids)]))
        })?;
        let found = logits("step", outputs)?;
        let row_len = found.bytes().len() / rows.len();
        let row = |row: &usize| &found.bytes()[row * row_len..(row + 1) * row_len];
        let named: Vec<u8> = rows.iter().flat_map(|at| row(at).iter().copied()).collect();
        Ok(Tensor::from_bytes(found.dtype(), found.dims(), &named)?)
    }

    /// Logits at every position of sequences of any lengths packed into one row: sequence `i` is
    /// `ids[cu_seqlens[i]..cu_seqlens[i + 1]]`. The result is `[1, total_len, vocab]`.
    ///
    /// # Errors
    /// If `cu_seqlens` does not rise from 0 to the number of tokens.
    pub fn forward_packed(&mut self, ids: &[u32], cu_seqlens: &[u32]) -> Result<Tensor, RuntimeError> {
        check_cu_seqlens(cu_seqlens, ids.len())?;
        let block = Block::whole(ids, 1)?;
        let mut seq_idx = std::mem::take(&mut self.seq_idx);
        let outputs = self.staged("forward_packed", block, |session, staged| {
            // The token ids fit the session, so the indices do.
            let bytes = &mut seq_idx.as_mut_slice()[..4 * ids.len()];
            fill_seq_idx(bytemuck::cast_slice_mut(bytes), cu_seqlens);
            let dims = [1, ids.len()];
            let seq_idx = TensorRef::from_bytes(DType::I32, &dims, bytes)?;
            session.run("forward_packed", &[(INPUT_IDS, staged), (SEQ_IDX, seq_idx)])
        });
        self.seq_idx = seq_idx;
        logits("forward_packed", outputs?)
    }

    /// Tokens per block of a long prefill: the most that the session takes.
    fn block_len(&self) -> Result<usize, RuntimeError> {
        self.program("prefill")?;
        let symbols = &self.manifest().symbols;
        let Some(index) = symbols.iter().position(|symbol| symbol.role() == SymbolRole::SeqLen) else {
            return Err(RuntimeError::Unsupported { what: "prefill without a sequence length".into() });
        };
        let (max, step) = (self.ranges()[index].1, symbols[index].divisibility.max(1));
        Ok((max - max % step).max(1) as usize)
    }

    /// Copies `block` to the staging buffer in the dtype and shape that the program takes and passes it to
    /// `run`.
    fn staged<T>(
        &mut self,
        name: &str,
        block: Block<'_>,
        run: impl FnOnce(&mut Self, TensorRef<'_>) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let program = self.program(name)?;
        let info = program.inputs.iter().find(|info| info.name == INPUT_IDS).ok_or_else(|| {
            let name = INPUT_IDS.to_owned();
            RuntimeError::TensorMissing { program: program.name.clone(), what: "input", name }
        })?;
        let dims: &[usize] = match info.shape.len() {
            1 => &[block.batch * block.len],
            _ => &[block.batch, block.len],
        };
        check_fits(self.manifest(), program, info, self.ranges(), dims)?;
        let dtype = info.dtype();
        let mut staging = std::mem::take(&mut self.staging);
        let staged = write_ids(dtype, block, staging.as_mut_slice(), name)
            .and_then(|len| Ok(TensorRef::from_bytes(dtype, dims, &staging.as_slice()[..len])?));
        let result = staged.and_then(|ids| run(self, ids));
        self.staging = staging;
        result
    }
}

fn one_each<'a>(state: &State, ids: &'a [u32]) -> Result<Block<'a>, RuntimeError> {
    if ids.len() == state.batch() {
        Block::whole(ids, state.batch())
    } else {
        Err(RuntimeError::Tokens { batch: state.batch(), found: ids.len() })
    }
}

fn logits(program: &str, outputs: Outputs) -> Result<Tensor, RuntimeError> {
    outputs.into_vec().into_iter().find(|(name, _)| name == LOGITS).map(|(_, tensor)| tensor).ok_or_else(
        || {
            let (program, name) = (program.to_owned(), LOGITS.to_owned());
            RuntimeError::TensorMissing { program, what: "output", name }
        },
    )
}

/// Checks that a tensor of shape `dims` fits the session, so that it fits the staging buffer.
fn check_fits(
    manifest: &Manifest,
    program: &Program,
    info: &TensorInfo,
    ranges: &[(i64, i64)],
    dims: &[usize],
) -> Result<(), RuntimeError> {
    let shape = || symbols::shape_error(manifest, program, "input", info, dims);
    if info.shape.len() != dims.len() {
        return Err(shape());
    }
    for (expr, &dim) in info.shape.iter().zip(dims) {
        let found = dim as i64;
        let fits = expr.range(ranges).is_ok_and(|(_, max)| found <= max);
        match expr.as_symbol() {
            _ if fits => {}
            Some(symbol) => return Err(symbols::range_error(manifest, program, ranges, symbol, found)),
            None => return Err(shape()),
        }
    }
    Ok(())
}

/// Writes the tokens of `block` as `dtype` to the start of `staging`; returns their bytes.
fn write_ids(
    dtype: DType,
    block: Block<'_>,
    staging: &mut [u8],
    program: &str,
) -> Result<usize, RuntimeError> {
    let n_tokens = block.batch * block.len;
    match dtype {
        DType::I64 => copy_ids(staging, block.tokens().map(i64::from)),
        DType::U32 => copy_ids(staging, block.tokens()),
        DType::I32 => {
            if let Some((index, id)) = block.tokens().enumerate().find(|&(_, id)| id > i32::MAX as u32) {
                return Err(RuntimeError::Value {
                    program: program.to_owned(),
                    name: INPUT_IDS.to_owned(),
                    index,
                    min: 0,
                    max: i32::MAX.into(),
                    found: id.into(),
                });
            }
            copy_ids(staging, block.tokens().map(|id| id as i32));
        }
        other => return Err(RuntimeError::Unsupported { what: format!("input_ids of {other}") }),
    }
    Ok(n_tokens * (dtype.bits() / 8) as usize)
}

/// Tokens of `dtype` as programs write them.
fn read_ids(dtype: DType, bytes: &[u8]) -> Result<Vec<u32>, RuntimeError> {
    let width = (dtype.bits() / 8) as usize;
    if !matches!(dtype, DType::I64 | DType::U32 | DType::I32) {
        return Err(RuntimeError::Unsupported { what: format!("input_ids of {dtype}") });
    }
    let low = |word: &[u8]| u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    Ok(bytes.chunks_exact(width).map(low).collect())
}

fn copy_ids<T: bytemuck::Pod>(staging: &mut [u8], ids: impl Iterator<Item = T>) {
    for (chunk, id) in staging.chunks_exact_mut(size_of::<T>()).zip(ids) {
        chunk.copy_from_slice(bytemuck::bytes_of(&id));
    }
}

fn check_cu_seqlens(cu_seqlens: &[u32], n_tokens: usize) -> Result<(), RuntimeError> {
    let fault = |index: usize, expected: String| {
        let found = cu_seqlens.get(index).copied().unwrap_or(0).into();
        Err(RuntimeError::CuSeqlens { index, expected, found })
    };
    match cu_seqlens {
        [] => return fault(0, "0 as the first offset, found none".into()),
        [first, ..] if *first != 0 => return fault(0, "0".into()),
        _ => {}
    }
    if let Some(index) = cu_seqlens.windows(2).position(|pair| pair[1] < pair[0]) {
        return fault(index + 1, format!("at least {}", cu_seqlens[index]));
    }
    let last = cu_seqlens.len() - 1;
    if cu_seqlens[last] as usize != n_tokens { fault(last, n_tokens.to_string()) } else { Ok(()) }
}

/// Writes to each position the index of its sequence.
fn fill_seq_idx(seq_idx: &mut [i32], cu_seqlens: &[u32]) {
    for (index, pair) in cu_seqlens.windows(2).enumerate() {
        seq_idx[pair[0] as usize..pair[1] as usize].fill(index as i32);
    }
}
