//! From the logits of bytes to spans of text.

use std::ops::Range;

/// Runs of fewer characters join their neighbour.
const SHORT: usize = 3;

/// A run of characters of one class.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    /// In bytes.
    pub(super) range: Range<usize>,
    pub(super) class: usize,
}

/// The id of a byte: 0 to 127 for printable ASCII, tab and line ends, 128 for all others.
pub(super) fn token(byte: u8) -> i64 {
    match byte {
        b'\t' | b'\n' | b'\r' | 0x20..=0x7e => i64::from(byte),
        _ => 128,
    }
}

/// The likeliest class of each character, by the mean over its bytes, in runs. White space goes with what is before
/// it, and short runs inside the text join the run before them.
pub(super) fn spans(text: &str, logits: &[f64], n_classes: usize) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (start, character) in text.char_indices() {
        let range = start..start + character.len_utf8();
        let class = match spans.last() {
            Some(last) if character.is_whitespace() => last.class,
            _ => likeliest(&logits[range.start * n_classes..range.end * n_classes], n_classes),
        };
        push(&mut spans, Span { range, class });
    }
    let mut joined = Vec::new();
    let last = spans.len().saturating_sub(1);
    for (i, mut span) in spans.into_iter().enumerate() {
        let inside = i > 0 && i < last;
        if let Some(before) = joined.last().filter(|_: &&Span| inside && span.range.len() < SHORT) {
            span.class = before.class;
        }
        push(&mut joined, span);
    }
    joined
}

/// Appends a span or extends the last one.
fn push(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        Some(last) if last.class == span.class => last.range.end = span.range.end,
        _ => spans.push(span),
    }
}

/// The class with the greatest sum over rows of logits; the first one among equals.
fn likeliest(rows: &[f64], n_classes: usize) -> usize {
    let sum = |class: usize| rows.iter().skip(class).step_by(n_classes).sum::<f64>();
    (0..n_classes).rev().max_by(|i, k| sum(*i).total_cmp(&sum(*k))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits that choose these classes, one digit per byte.
    fn logits(classes: &str) -> Vec<f64> {
        classes.bytes().flat_map(|c| (0..3).map(move |k| f64::from(u8::from(c == b'0' + k)))).collect()
    }

    #[track_caller]
    fn check(text: &str, classes: &str, expected: &[(Range<usize>, usize)]) {
        let found: Vec<_> =
            spans(text, &logits(classes), 3).into_iter().map(|s| (s.range, s.class)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn runs_become_spans() {
        check("aaabbb", "000111", &[(0..3, 0), (3..6, 1)]);
        check("aaa bbb", "0002111", &[(0..4, 0), (4..7, 1)]);
        check("aaabaaa", "0001000", &[(0..7, 0)]);
        check("", "", &[]);
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        check("aaä", "0011", &[(0..2, 0), (2..4, 1)]);
    }

    #[test]
    fn ids_of_bytes() {
        assert_eq!([b'a', b'\n', 0x07, 0x7f, 0xe4].map(token), [97, 10, 128, 128, 128]);
    }
}
