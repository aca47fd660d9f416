//! Slots: sequences that decode together, each at a position of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Placed, State, StateLayout, Store, Turn, mismatch};
use crate::error::RuntimeError;
use crate::memory::MemoryLimit;

/// Names a sequence of [`Slots`]; never used again once it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u64);

/// A sequence.
#[derive(Clone, Debug)]
struct Slot {
    id: SlotId,
    position: u64,
    /// Where its states before the last calls are, oldest first.
    past: VecDeque<Seen>,
}

/// The state of a sequence in a generation that is kept.
#[derive(Clone, Copy, Debug)]
struct Seen {
    generation: u64,
    row: usize,
    position: u64,
}

/// The states of sequences that come and go and decode together: a pool for serving.
///
/// Sequences enter with the state that a `prefill` made ([`Slots::add`]), move on by [`crate::Session::step_slots`], any
/// of them at a time, and can be forked, undone, taken out and saved one by one. Those that take part in a step lie side
/// by side; a step costs what it costs for as many sequences, and a copy of the states that wait.
#[derive(Debug)]
pub struct Slots {
    layout: Arc<StateLayout>,
    capacity: usize,
    placed: Vec<Placed>,
    /// In the order of rows.
    slots: Vec<Slot>,
    present: Store,
    /// Number of the present generation; those before it count down.
    generation: u64,
    /// Generations before the present, oldest first.
    past: VecDeque<Store>,
    free: Vec<Store>,
    len: usize,
    limit: MemoryLimit,
    next: u64,
}

impl Slots {
    pub(crate) fn new(
        layout: &Arc<StateLayout>,
        capacity: usize,
        limit: MemoryLimit,
    ) -> Result<Self, RuntimeError> {
        if capacity == 0 || capacity > layout.max_batch {
            return Err(mismatch("slots", format!("1 to {}", layout.max_batch), capacity));
        }
        let is_batch =
            |expr: Option<&ssmc_artifact::Expr>| expr.is_some_and(|e| e.as_symbol() == layout.batch_symbol);
        if let Some(entry) = layout.entries.iter().find(|entry| !is_batch(entry.shape.first())) {
            let what = format!("slots for state {}, which has no row per sequence", entry.name);
            return Err(RuntimeError::Unsupported { what });
        }
        let (placed, len) = layout.place(capacity)?;
        Ok(Self {
            layout: Arc::clone(layout),
            capacity,
            placed,
            slots: Vec::with_capacity(capacity),
            present: layout.place.allocate(len, limit)?,
            generation: 0,
            past: VecDeque::new(),
            free: Vec::new(),
            len,
            limit,
            next: 0,
        })
    }

    /// Most sequences at a time.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sequences at present.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The sequences at present.
    pub fn ids(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.slots.iter().map(|slot| slot.id)
    }

    /// Tokens that a sequence has read.
    ///
    /// # Errors
    /// If it has been removed.
    pub fn position(&self, id: SlotId) -> Result<u64, RuntimeError> {
        Ok(self.slots[self.row(id)?].position)
    }

    /// How many steps of a sequence can be undone.
    ///
    /// # Errors
    /// If it has been removed.
    pub fn rollback_available(&self, id: SlotId) -> Result<usize, RuntimeError> {
        Ok(self.slots[self.row(id)?].past.len())
    }

    /// Takes in a sequence of a state: a copy of it.
    ///
    /// # Errors
    /// If all slots are taken, or the state is of another model or device or has no such sequence.
    pub fn add(&mut self, state: &State, sequence: usize) -> Result<SlotId, RuntimeError> {
        state.check_layout(&self.layout)?;
        if sequence >= state.batch {
            return Err(mismatch("sequence", format!("below {}", state.batch), sequence));
        }
        let row = self.new_row()?;
        let from = (state.current(), state.placed.as_slice(), state.batch, sequence);
        let to = (self.placed.as_slice(), self.capacity, row);
        copy_row(from, (&mut self.present, to))?;
        Ok(self.enter(state.position(), VecDeque::new()))
    }

    /// Copies a sequence with the steps that can be undone.
    ///
    /// # Errors
    /// If it has been removed, or all slots are taken.
    pub fn fork(&mut self, id: SlotId) -> Result<SlotId, RuntimeError> {
        let (from, to) = (self.row(id)?, self.new_row()?);
        self.move_row(from, to)?;
        let Slot { position, past, .. } = self.slots[from].clone();
        Ok(self.enter(position, past))
    }

    /// Gives a slot back.
    ///
    /// # Errors
    /// If it has been given back already.
    pub fn remove(&mut self, id: SlotId) -> Result<(), RuntimeError> {
        let row = self.row(id)?;
        let last = self.slots.len() - 1;
        if row != last {
            self.move_row(last, row)?;
        }
        self.slots.swap_remove(row);
        Ok(())
    }

    /// The state of a sequence by itself: to go on with it alone, or to save it.
    ///
    /// # Errors
    /// If it has been removed.
    pub fn state(&self, id: SlotId) -> Result<State, RuntimeError> {
        let row = self.row(id)?;
        let mut state = State::new(&self.layout, 1, self.limit)?;
        let State { history, placed, .. } = &mut state;
        let present = history.back_mut().expect("a state has a present");
        let from = (&self.present, self.placed.as_slice(), self.capacity, row);
        copy_row(from, (&mut present.memory, (placed, 1, 0)))?;
        present.position = self.slots[row].position;
        Ok(state)
    }

    /// Undoes the last steps of a sequence. Steps can be undone as long as there were no more than `rollback_depth` calls
    /// of [`crate::Session::step_slots`] since, whichever sequences they moved.
    ///
    /// # Errors
    /// If it has been removed, or fewer steps are kept.
    pub fn rollback(&mut self, id: SlotId, steps: usize) -> Result<(), RuntimeError> {
        let row = self.row(id)?;
        let available = self.slots[row].past.len();
        if steps > available {
            return Err(RuntimeError::Rollback { found: steps, available });
        }
        if steps == 0 {
            return Ok(());
        }
        let seen = self.slots[row].past[available - steps];
        let age = (self.generation - seen.generation) as usize;
        let from = (&self.past[self.past.len() - age], self.placed.as_slice(), self.capacity, seen.row);
        copy_row(from, (&mut self.present, (self.placed.as_slice(), self.capacity, row)))?;
        let slot = &mut self.slots[row];
        slot.past.truncate(available - steps);
        slot.position = seen.position;
        Ok(())
    }

    fn row(&self, id: SlotId) -> Result<usize, RuntimeError> {
        self.slots.iter().position(|slot| slot.id == id).ok_or(RuntimeError::NoSlot { id: id.0 })
    }

    fn new_row(&self) -> Result<usize, RuntimeError> {
        let row = self.slots.len();
        if row == self.capacity {
            return Err(RuntimeError::SlotsFull { capacity: self.capacity });
        }
        Ok(row)
    }

    fn enter(&mut self, position: u64, past: VecDeque<Seen>) -> SlotId {
        let id = SlotId(self.next);
        self.next += 1;
        self.slots.push(Slot { id, position, past });
        id
    }

    fn take_free(&mut self) -> Result<Store, RuntimeError> {
        match self.free.pop() {
            Some(memory) => Ok(memory),
            None => self.layout.place.allocate(self.len, self.limit),
        }
    }

    /// Copies a row of the present over another one.
    fn move_row(&mut self, from: usize, to: usize) -> Result<(), RuntimeError> {
        let mut between = self.take_free()?;
        let (placed, n) = (self.placed.as_slice(), self.capacity);
        let copied = copy_row((&self.present, placed, n, from), (&mut between, (placed, n, from)))
            .and_then(|()| copy_row((&between, placed, n, from), (&mut self.present, (placed, n, to))));
        self.free.push(between);
        copied
    }

    /// Gives the first rows to these sequences, each with its token. Returns the tokens in the order of rows and, for each
    /// of the sequences as given, its row.
    pub(crate) fn gather(
        &mut self,
        tokens: &[(SlotId, u32)],
    ) -> Result<(Vec<u32>, Vec<usize>), RuntimeError> {
        for (i, (id, _)) in tokens.iter().enumerate() {
            self.row(*id)?;
            if tokens[..i].iter().any(|(other, _)| other == id) {
                return Err(RuntimeError::SlotTwice { id: id.0 });
            }
        }
        let n = tokens.len();
        let takes_part = |slot: &Slot| tokens.iter().any(|(id, _)| *id == slot.id);
        for row in n..self.slots.len() {
            if takes_part(&self.slots[row]) {
                let waits = |slot: &Slot| !takes_part(slot);
                let other = self.slots[..n].iter().position(waits).expect("as many are in the wrong place");
                self.swap_rows(row, other)?;
            }
        }
        let rows = tokens.iter().map(|(id, _)| self.row(*id)).collect::<Result<Vec<_>, _>>()?;
        let mut ids = vec![0; n];
        for ((_, token), row) in tokens.iter().zip(&rows) {
            ids[*row] = *token;
        }
        Ok((ids, rows))
    }

    fn swap_rows(&mut self, a: usize, b: usize) -> Result<(), RuntimeError> {
        let mut between = self.take_free()?;
        let (placed, n) = (self.placed.as_slice(), self.capacity);
        let mut swap = || {
            copy_row((&self.present, placed, n, a), (&mut between, (placed, n, a)))?;
            copy_row((&self.present, placed, n, b), (&mut between, (placed, n, b)))?;
            copy_row((&between, placed, n, a), (&mut self.present, (placed, n, b)))?;
            copy_row((&between, placed, n, b), (&mut self.present, (placed, n, a)))
        };
        let swapped = swap();
        self.free.push(between);
        swapped?;
        self.slots.swap(a, b);
        Ok(())
    }

    /// Runs a call that moves the first `n` rows on by one token, and keeps the others. If it fails nothing changes.
    pub(crate) fn transition<T>(
        &mut self,
        layout: &Arc<StateLayout>,
        (n, max): (usize, u64),
        run: impl FnOnce(Turn<'_>) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        self.layout.check(layout, &self.present)?;
        if let Some(slot) = self.slots[..n].iter().find(|slot| max > 0 && slot.position >= max) {
            return Err(RuntimeError::Context { max, position: slot.position, found: 1 });
        }
        let mut after = self.take_free()?;
        let (placed, capacity) = (self.placed.as_slice(), self.capacity);
        let mut keep = || {
            (n..self.slots.len()).try_for_each(|row| {
                copy_row((&self.present, placed, capacity, row), (&mut after, (placed, capacity, row)))
            })
        };
        let turn =
            |after| Turn { layout: &self.layout, placed, batch: n, before: Some(&self.present), after };
        let result = keep().and_then(|()| run(turn(&mut after)));
        match &result {
            Ok(_) => self.commit(after, n),
            Err(_) => self.free.push(after),
        }
        result
    }

    fn commit(&mut self, after: Store, n: usize) {
        let before = std::mem::replace(&mut self.present, after);
        self.past.push_back(before);
        for (row, slot) in self.slots[..n].iter_mut().enumerate() {
            slot.past.push_back(Seen { generation: self.generation, row, position: slot.position });
            slot.position += 1;
        }
        self.generation += 1;
        while self.past.len() > self.layout.depth {
            self.free.extend(self.past.pop_front());
        }
        let oldest = self.generation - self.past.len() as u64;
        for slot in &mut self.slots {
            while slot.past.front().is_some_and(|seen| seen.generation < oldest) {
                slot.past.pop_front();
            }
        }
    }
}

/// Copies a row of all tensors: from a row of so many to a row of so many.
fn copy_row(
    (from, placed, n, row): (&Store, &[Placed], usize, usize),
    (to, (target, n_target, at)): (&mut Store, (&[Placed], usize, usize)),
) -> Result<(), RuntimeError> {
    for (source, target) in placed.iter().zip(target) {
        let len = source.len / n;
        let offset = target.offset + at * (target.len / n_target);
        from.copy_to(source.offset + row * len, (&mut *to, offset), len)?;
    }
    Ok(())
}
