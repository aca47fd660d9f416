//! The cells of a term. Nearly all of them are empty in a proof, and most of what a proof does moves them: a grid stores
//! those that hold something, and copies share what these hold.

use super::form::Entry;
use std::ops::Deref;
use std::rc::Rc;

/// The monomials of a cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell(Option<Rc<[Entry]>>);

impl Deref for Cell {
    type Target = [Entry];
    fn deref(&self) -> &[Entry] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<&[Entry]> for Cell {
    fn from(entries: &[Entry]) -> Self {
        Self((!entries.is_empty()).then(|| entries.into()))
    }
}

impl From<Entry> for Cell {
    fn from(entry: Entry) -> Self {
        Self::from(&[entry][..])
    }
}

/// A row of cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Grid {
    len: usize,
    /// The cells that are not empty, ascending by index.
    held: Vec<(u32, Cell)>,
}

impl Grid {
    /// So many equal cells.
    pub(super) fn repeat(cell: &Cell, len: usize) -> Self {
        (0..len).map(|_| cell.clone()).collect()
    }

    /// Adds a cell behind the others.
    pub(super) fn push(&mut self, cell: Cell) {
        if !cell.is_empty() {
            self.held.push((self.len as u32, cell));
        }
        self.len += 1;
    }

    /// Whether no cell holds anything.
    pub(super) fn is_zero(&self) -> bool {
        self.held.is_empty()
    }

    /// The number of monomials.
    pub(super) fn n_entries(&self) -> usize {
        self.held.iter().map(|(_, cell)| cell.len()).sum()
    }

    /// The monomials of all cells in order, each with the index of its cell.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.held.iter().flat_map(|(i, cell)| cell.iter().map(move |entry| (*i as usize, entry)))
    }

    /// All cells in order, empty ones as well.
    pub(super) fn cells(&self) -> Vec<&[Entry]> {
        let mut cells: Vec<&[Entry]> = vec![&[]; self.len];
        for (i, cell) in &self.held {
            cells[*i as usize] = cell;
        }
        cells
    }

    /// The grid whose cell `i` is the present cell `from[i]`, or empty.
    pub(super) fn moved(&self, from: &[Option<usize>]) -> Self {
        if self.is_zero() {
            return Self { len: from.len(), held: Vec::new() };
        }
        let cell = |i: &Option<usize>| {
            let i = (*i)? as u32;
            let at = self.held.binary_search_by_key(&i, |(held, _)| *held).ok()?;
            Some(self.held[at].1.clone())
        };
        from.iter().map(|i| cell(i).unwrap_or_default()).collect()
    }

    /// The same without the cells that `keep` refuses.
    pub(super) fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        self.held.retain(|(i, _)| keep(*i as usize));
    }

    /// Each cell that holds something, changed.
    pub(super) fn changed(&self, f: impl Fn(&[Entry]) -> Cell) -> Self {
        let mut held: Vec<_> = self.held.iter().map(|(i, cell)| (*i, f(cell))).collect();
        held.retain(|(_, cell)| !cell.is_empty());
        Self { len: self.len, held }
    }

    /// The cells of both, `join` of them where both hold something.
    pub(super) fn merged(&self, other: &Self, mut join: impl FnMut(&[Entry], &[Entry]) -> Cell) -> Self {
        let mut held = Vec::with_capacity(self.held.len().max(other.held.len()));
        let (mut left, mut right) = (self.held.iter().peekable(), other.held.iter().peekable());
        loop {
            let (i, cell) = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some((i, x)), Some((j, y))) if i == j => {
                    let both = (*i, join(x, y));
                    left.next();
                    right.next();
                    both
                }
                (Some((i, _)), Some((j, _))) if j < i => match right.next() {
                    Some(cell) => cell.clone(),
                    None => break,
                },
                (Some(_), _) => match left.next() {
                    Some(cell) => cell.clone(),
                    None => break,
                },
                (None, Some(_)) => match right.next() {
                    Some(cell) => cell.clone(),
                    None => break,
                },
            };
            if !cell.is_empty() {
                held.push((i, cell));
            }
        }
        Self { len: self.len, held }
    }
}

impl FromIterator<Cell> for Grid {
    fn from_iter<I: IntoIterator<Item = Cell>>(cells: I) -> Self {
        let mut grid = Self::default();
        for cell in cells {
            grid.push(cell);
        }
        grid.held.shrink_to_fit();
        grid
    }
}
