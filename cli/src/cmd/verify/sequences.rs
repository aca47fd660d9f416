//! A sequence in pieces: token by token, and packed in a row with another one.

use super::{Call, Tensors, Verifier, keep, saved_states};
use crate::failure::{Failure, Kind, Outcome};
use crate::tensors;
use ssmc::Rng;
use ssmc_ir::Tensor;
use ssmc_runtime::Session;

impl Verifier<'_> {
    /// The sequence fed to `step` gives the logits of `forward` and the state of `prefill`; packed in one row, its
    /// halves give what each gives alone.
    pub(super) fn sequences(&mut self) -> Outcome {
        let len = self.args.len;
        let mut rng = Rng::new(self.args.seed);
        let forward = self.entry("forward")?;
        let inputs = tensors::random(self.artifact.manifest(), forward, 1, len, &mut rng)?;
        let Some(ids) = inputs.get("input_ids").cloned() else { return Ok(()) };
        self.progress.say("comparing step by step");
        self.step_by_step(&ids)?;
        self.progress.advance();
        if self.entry("forward_packed").is_ok() {
            self.progress.say("comparing packed sequences");
            self.packed(&ids)?;
        }
        self.progress.advance();
        Ok(())
    }

    fn call(&self, case: &str, program: &'static str, ids: Tensor) -> Outcome<Call<'static>> {
        let states = self.zero_states(program)?;
        let inputs = Tensors::from([("input_ids".to_owned(), ids)]);
        Ok(Call { case: case.to_owned(), program, inputs, states })
    }

    fn step_by_step(&mut self, ids: &Tensor) -> Outcome {
        let whole = self.call("step by step", "forward", ids.clone())?;
        let expected = self.truth(&whole)?;
        let mut session = self.session(&whole)?;
        let mut state = session.new_state(1)?;
        let mut rows = Vec::new();
        for id in token_ids(ids)? {
            rows.extend(tensors::from_buffer(&session.step(&mut state, &[id])?)?.to_f64());
        }
        let logits = expected.get("logits").ok_or_else(no_logits)?;
        let found = Tensor::floats(logits.dtype(), logits.shape(), rows);
        let found = found.map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
        let step = Call { program: "step", ..whole };
        self.compare(&step, &expected, &Tensors::from([("logits".to_owned(), found)]));
        let prefill = self.call("step by step", "prefill", ids.clone())?;
        let states = keep(&self.truth(&prefill)?, &self.program("prefill")?.states);
        let saved = saved_states(&state)?;
        self.compare(&step, &states, &saved);
        Ok(())
    }

    fn packed(&mut self, ids: &Tensor) -> Outcome {
        let tokens = token_ids(ids)?;
        let cut = tokens.len() / 2;
        let mut rows = Vec::new();
        for part in [&tokens[..cut], &tokens[cut..]] {
            let part =
                Tensor::ints(ids.dtype(), [1, part.len()], part.iter().map(|id| i64::from(*id)).collect());
            let part = part.map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
            let outputs = self.truth(&self.call("two in a row", "forward", part)?)?;
            rows.extend(outputs.get("logits").ok_or_else(no_logits)?.to_f64());
        }
        let call = self.call("two in a row", "forward_packed", ids.clone())?;
        let mut session: Session = self.session(&call)?;
        let lens = [0, cut as u32, tokens.len() as u32];
        let found = tensors::from_buffer(&session.forward_packed(&tokens, &lens)?)?;
        let expected = Tensor::floats(found.dtype(), found.shape(), rows);
        let expected = expected.map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
        let named = |tensor| Tensors::from([("logits".to_owned(), tensor)]);
        self.compare(&call, &named(expected), &named(found));
        Ok(())
    }
}

fn no_logits() -> Failure {
    Failure::new(Kind::Internal, "forward has no output logits")
}

fn token_ids(ids: &Tensor) -> Outcome<Vec<u32>> {
    let ids = ids.as_ints().map_err(|error| Failure::input(format!("input_ids: {error}")))?;
    let id = |id: &i64| u32::try_from(*id).map_err(|error| Failure::input(format!("input_ids: {error}")));
    ids.iter().map(id).collect()
}
