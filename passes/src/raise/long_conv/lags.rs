//! Which element of a kernel acts at which distance.
//!
//! A circular convolution of `n` elements whose signal lies at `low` and whose result is read from `from` on joins
//! result t and input s through element m of the kernel with m = t - s + from - low (mod n), or its negative if the
//! kernel's spectrum is conjugated. The distance t - s is the lag.

use super::Obstacle;
use ssmc_ir::Dim;

/// A run of taps of a new kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Zeros(usize),
    /// Elements of the old kernel from `start` on, perhaps in reverse order.
    Taps {
        start: usize,
        len: usize,
        reversed: bool,
    },
}

/// How a kernel in the graph becomes one whose taps are in order of their lags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lags {
    /// It is one already.
    InOrder,
    /// It consists of these pieces, of which the first `lead` taps look ahead.
    Pieces { pieces: Vec<Piece>, lead: i64 },
}

/// The extents of a circular convolution: all of one transform, where the signal lies in it, and what is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circle {
    pub(super) length: i64,
    pub(super) low: i64,
    pub(super) signal: i64,
    pub(super) from: i64,
    pub(super) kept: i64,
}

impl Circle {
    /// Every lag between an input and a kept result.
    pub(super) fn lags(self) -> std::ops::Range<i64> {
        1 - self.signal..self.kept
    }

    /// The element of the kernel that acts at this lag.
    pub(super) fn element(self, lag: i64, is_conjugate: bool) -> i64 {
        let m = lag + self.from - self.low;
        (if is_conjugate { -m } else { m }).rem_euclid(self.length)
    }

    /// The pieces of a kernel that lies at `low` with `width` elements.
    ///
    /// # Errors
    /// An element acts at two lags, or none acts at all.
    pub(super) fn pieces(self, low: i64, width: i64, is_conjugate: bool) -> Result<Lags, Obstacle> {
        let taps: Vec<(i64, i64)> = self
            .lags()
            .map(|lag| (lag, (self.element(lag, is_conjugate) - low).rem_euclid(self.length)))
            .filter(|(_, j)| *j < width)
            .collect();
        let (Some((first, _)), Some((last, _))) = (taps.first(), taps.last()) else {
            return Err(Obstacle::Empty);
        };
        let mut seen: Vec<i64> = taps.iter().map(|(_, j)| *j).collect();
        seen.sort_unstable();
        if seen.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Obstacle::Circular { length: self.length.into() });
        }
        let (lead, last) = ((-*first).max(0), *last);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut next = -lead;
        for (lag, j) in taps {
            if lag > next {
                pieces.push(Piece::Zeros((lag - next) as usize));
            }
            let j = j as usize;
            match pieces.last_mut() {
                Some(Piece::Taps { start, len, reversed: false })
                    if !is_conjugate && lag == next && *start + *len == j =>
                {
                    *len += 1;
                }
                Some(Piece::Taps { start, len, reversed: true })
                    if is_conjugate && lag == next && *start == j + 1 =>
                {
                    *start = j;
                    *len += 1;
                }
                _ => pieces.push(Piece::Taps { start: j, len: 1, reversed: is_conjugate }),
            }
            next = lag + 1;
        }
        debug_assert_eq!(next, last + 1);
        let whole = Piece::Taps { start: 0, len: width as usize, reversed: false };
        Ok(if lead == 0 && pieces == [whole] { Lags::InOrder } else { Lags::Pieces { pieces, lead } })
    }
}

/// Lags where extents are symbols: a causal convolution in the usual order.
///
/// # Errors
/// It cannot be shown that nothing wraps around.
pub(super) fn symbolic(length: &Dim, signal: &Dim, kernel: &Dim) -> Result<Lags, Obstacle> {
    let needed = signal.clone() + kernel - 1i64;
    if length.at_least(&needed) == *length {
        return Ok(Lags::InOrder);
    }
    Err(Obstacle::Unproven { signal: signal.clone(), kernel: kernel.clone(), length: length.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCLE: Circle = Circle { length: 8, low: 0, signal: 4, from: 0, kept: 4 };

    #[test]
    fn enough_padding_keeps_the_order() {
        assert_eq!(CIRCLE.pieces(0, 4, false), Ok(Lags::InOrder));
        assert_eq!(
            CIRCLE.pieces(0, 5, false),
            Ok(Lags::Pieces { pieces: vec![Piece::Taps { start: 0, len: 4, reversed: false }], lead: 0 })
        );
    }

    #[test]
    fn a_kernel_as_long_as_the_transform_looks_ahead() {
        let pieces = vec![
            Piece::Taps { start: 5, len: 3, reversed: false },
            Piece::Taps { start: 0, len: 4, reversed: false },
        ];
        assert_eq!(CIRCLE.pieces(0, 8, false), Ok(Lags::Pieces { pieces, lead: 3 }));
    }

    #[test]
    fn without_padding_it_is_circular() {
        let circle = Circle { length: 4, ..CIRCLE };
        assert_eq!(circle.pieces(0, 4, false), Err(Obstacle::Circular { length: 4.into() }));
        assert_eq!(circle.pieces(0, 1, false), Ok(Lags::InOrder));
    }

    #[test]
    fn a_conjugate_spectrum_turns_the_kernel_around() {
        // Read where the last element of the kernel meets the first input.
        let circle = Circle { from: 5, ..CIRCLE };
        let pieces = vec![Piece::Taps { start: 0, len: 4, reversed: true }];
        assert_eq!(circle.pieces(0, 4, true), Ok(Lags::Pieces { pieces, lead: 0 }));
        let pieces = vec![Piece::Taps { start: 0, len: 4, reversed: true }];
        assert_eq!(CIRCLE.pieces(0, 4, true), Ok(Lags::Pieces { pieces, lead: 3 }));
    }
}
