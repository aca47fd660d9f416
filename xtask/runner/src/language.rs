//! Language models: greedy continuation and the agreement of `prefill` and `step` with `forward`.

use std::path::Path;
use std::time::Instant;

use ssmc_npz::Array;
use ssmc_runtime::{Session, State, Tensor};

use crate::Error;
use crate::arrays::write_arrays;
use crate::job::Rows;

/// The likeliest tokens after each row, recomputing everything for each.
pub(crate) fn greedy_by_forward(session: &mut Session, prompts: &Rows, tokens: usize) -> Result<Rows, Error> {
    let mut rows = prompts.clone();
    for _ in 0..tokens {
        let logits = session.forward(rows.len(), &rows.concat())?;
        for (row, next) in rows.iter_mut().zip(likeliest(&logits, prompts.len())?) {
            row.push(next);
        }
    }
    let prompt_len = prompts[0].len();
    Ok(rows.into_iter().map(|mut row| row.split_off(prompt_len)).collect())
}

/// The likeliest tokens after each row, with the state carried from token to token.
pub(crate) fn greedy_by_step(session: &mut Session, prompts: &Rows, tokens: usize) -> Result<Rows, Error> {
    let mut state = session.new_state(prompts.len())?;
    let mut logits = session.prefill(&mut state, &prompts.concat())?;
    let mut rows = vec![Vec::new(); prompts.len()];
    for i in 0..tokens {
        let next = likeliest(&logits, prompts.len())?;
        for (row, next) in rows.iter_mut().zip(&next) {
            row.push(*next);
        }
        if i + 1 < tokens {
            logits = session.step(&mut state, &next)?;
        }
    }
    Ok(rows)
}

/// The likeliest tokens after each row, chosen where the kernels run.
pub(crate) fn greedy_by_generate(
    session: &mut Session,
    prompts: &Rows,
    tokens: usize,
) -> Result<Rows, Error> {
    if tokens == 0 {
        return Ok(vec![Vec::new(); prompts.len()]);
    }
    let mut state = session.new_state(prompts.len())?;
    let logits = session.prefill(&mut state, &prompts.concat())?;
    let first = likeliest(&logits, prompts.len())?;
    let others = session.generate(&mut state, &first, tokens - 1)?;
    let row = |i: usize| &others[i * (tokens - 1)..(i + 1) * (tokens - 1)];
    Ok(first.iter().enumerate().map(|(i, id)| [&[*id], row(i)].concat()).collect())
}

/// The index of the greatest logit at the last position of each row; the first one among equals.
fn likeliest(logits: &Tensor, batch: usize) -> Result<Vec<u32>, Error> {
    let (values, vocab) = flat(logits)?;
    let row_len = values.len() / batch;
    let last = values.chunks_exact(row_len).map(|row| &row[row_len - vocab..]);
    Ok(last
        .map(|row| (0..vocab).rev().max_by(|i, k| row[*i].total_cmp(&row[*k])).unwrap_or(0) as u32)
        .collect())
}

/// The logits and the size of the vocabulary.
fn flat(logits: &Tensor) -> Result<(&[f32], usize), Error> {
    let values = logits
        .as_slice::<f32>()
        .ok_or_else(|| Error::Array(format!("logits: expected f32, found {}", logits.dtype())))?;
    match logits.dims().last() {
        Some(vocab) if *vocab > 0 => Ok((values, *vocab)),
        _ => Err(Error::Array("logits: no vocabulary".into())),
    }
}

/// Seconds of the fastest of some calls of `prefill`, each into a new state.
pub(crate) fn prefill(session: &mut Session, tokens: usize, times: usize) -> Result<f64, Error> {
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i.wrapping_mul(7919) % 50000).collect();
    let mut seconds = f64::INFINITY;
    for _ in 0..times {
        let mut state = session.new_state(1)?;
        let start = Instant::now();
        session.prefill(&mut state, &ids)?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Seconds of the first tokens of a long sequence, and of as many in short ones.
pub(crate) struct Grown {
    pub(crate) tokens: usize,
    pub(crate) long: f64,
    pub(crate) short: f64,
}

/// A prefill of `tokens` tokens by blocks of `len`, in turns with sequences of one block.
pub(crate) fn growth(session: &mut Session, tokens: usize, len: usize) -> Result<Vec<Grown>, Error> {
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i.wrapping_mul(7919) % 50000).collect();
    let time = |session: &mut Session, state: &mut State, block: &[u32]| -> Result<f64, Error> {
        let start = Instant::now();
        session.prefill(state, block)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut whole = session.new_state(1)?;
    let (mut long, mut short) = (0.0, 0.0);
    let (mut done, mut next, mut grown) = (0, len, Vec::new());
    for (i, block) in ids.chunks_exact(len.max(1)).enumerate() {
        let mut fresh = session.new_state(1)?;
        // Neither always follows the other.
        if i % 2 == 0 {
            long += time(session, &mut whole, block)?;
        }
        short += time(session, &mut fresh, block)?;
        if i % 2 == 1 {
            long += time(session, &mut whole, block)?;
        }
        done += len;
        if done == next {
            grown.push(Grown { tokens: done, long, short });
            next *= 4;
        }
    }
    Ok(grown)
}

/// The largest difference between the logits of sequences that move to another session and back and those of sequences that
/// stay, relative to the largest logit. They move as saved states; in the other session each also decodes in a slot.
pub(crate) fn moved(
    here: &mut Session,
    there: &mut Session,
    prompts: &Rows,
    steps: usize,
) -> Result<f64, Error> {
    let batch = prompts.len();
    let mut stayed = here.new_state(batch)?;
    let logits = here.prefill(&mut stayed, &prompts.concat())?;
    let mut moved = there.load_state(&stayed.save()?)?;
    let mut slots = there.new_slots(batch)?;
    let ids = (0..batch).map(|row| slots.add(&moved, row)).collect::<Result<Vec<_>, _>>()?;
    let mut next = likeliest(&logits, batch)?;
    let (mut worst, mut peak) = (0f64, 0f64);
    let mut compare = |found: &Tensor, expected: &Tensor| -> Result<(), Error> {
        let ((found, _), (expected, _)) = (flat(found)?, flat(expected)?);
        for (x, y) in found.iter().zip(expected) {
            let difference = f64::from(x - y).abs();
            // A NaN is no maximum of anything.
            worst = if difference > worst || difference.is_nan() { difference } else { worst };
            peak = peak.max(f64::from(y.abs()));
        }
        Ok(())
    };
    for _ in 0..steps {
        let expected = here.step(&mut stayed, &next)?;
        compare(&there.step(&mut moved, &next)?, &expected)?;
        let tokens: Vec<_> = ids.iter().copied().zip(next.iter().copied()).collect();
        compare(&there.step_slots(&mut slots, &tokens)?, &expected)?;
        next = likeliest(&expected, batch)?;
    }
    let mut back = here.load_state(&moved.save()?)?;
    compare(&here.step(&mut back, &next)?, &here.step(&mut stayed, &next)?)?;
    Ok(worst / peak)
}

/// Wall time of each part.
pub(crate) struct Seconds {
    pub(crate) forward: f64,
    pub(crate) prefill: f64,
    pub(crate) steps: f64,
}

/// Logits at the last `steps + 1` positions, by `forward` and by `prefill` and `step`, each
/// `[batch, steps + 1, vocab]`, written as `forward` and `step`.
pub(crate) fn continue_sequence(
    session: &mut Session,
    ids: &Rows,
    steps: usize,
    output: &Path,
) -> Result<Seconds, Error> {
    let (batch, len) = (ids.len(), ids[0].len());
    if steps >= len {
        return Err(Error::Usage(format!("continue: expected fewer than {len} steps, found {steps}")));
    }
    let start = Instant::now();
    let whole = session.forward(batch, &ids.concat())?;
    let forward = start.elapsed().as_secs_f64();
    let (values, vocab) = flat(&whole)?;
    let kept = (steps + 1) * vocab;
    let expected: Vec<f32> =
        values.chunks_exact(len * vocab).flat_map(|row| &row[row.len() - kept..]).copied().collect();

    let column = |range: std::ops::Range<usize>| -> Vec<u32> {
        ids.iter().flat_map(|row| &row[range.clone()]).copied().collect()
    };
    let mut found = vec![Vec::with_capacity(kept); batch];
    let mut keep = |logits: &Tensor| -> Result<(), Error> {
        for (row, logits) in found.iter_mut().zip(flat(logits)?.0.chunks_exact(vocab)) {
            row.extend_from_slice(logits);
        }
        Ok(())
    };
    let mut state = session.new_state(batch)?;
    let start = Instant::now();
    let logits = session.prefill(&mut state, &column(0..len - steps))?;
    let prefill = start.elapsed().as_secs_f64();
    keep(&logits)?;
    let mut seconds = 0.0;
    for at in len - steps..len {
        let start = Instant::now();
        let logits = session.step(&mut state, &column(at..at + 1))?;
        seconds += start.elapsed().as_secs_f64();
        keep(&logits)?;
    }
    let shape = [batch, steps + 1, vocab];
    let arrays =
        [("forward", Array::f32s(&shape, &expected)), ("step", Array::f32s(&shape, &found.concat()))];
    write_arrays(output, &arrays)?;
    Ok(Seconds { forward, prefill, steps: seconds })
}
