//! Choosing the next token.

use ssmc::Rng;

/// How a token is drawn from logits.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    /// 0 takes the most likely token always.
    pub(crate) temperature: f64,
    /// Only this many of the most likely tokens take part; 0 means all.
    pub(crate) top_k: usize,
    /// Only the most likely tokens whose probabilities together reach this take part; 1 means all.
    pub(crate) top_p: f64,
    pub(crate) rng: Rng,
}

impl Sampler {
    /// The id of the next token; `None` if no logit is a number.
    ///
    /// Greedy choice and the order of equally likely tokens prefer the lowest id. Otherwise the `top_k` largest
    /// logits are divided by the temperature, their softmax is computed in f64, cut at `top_p`, and one random
    /// number chooses by the cumulated probabilities, the most likely token first.
    pub(crate) fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        if self.temperature <= 0.0 {
            return argmax(logits);
        }
        let mut order: Vec<(usize, f64)> =
            logits.iter().map(|x| f64::from(*x)).enumerate().filter(|(_, x)| !x.is_nan()).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let peak = order.first()?.1;
        let weight = |x: f64| if x == peak { 1.0 } else { ((x - peak) / self.temperature).exp() };
        order.iter_mut().for_each(|(_, x)| *x = weight(*x));
        let total: f64 = order.iter().map(|(_, p)| p).sum();
        let mut kept = 0.0;
        let enough = order.iter().position(|(_, p)| {
            kept += p;
            kept >= self.top_p * total
        });
        order.truncate(enough.map_or(order.len(), |last| last + 1));
        let kept: f64 = order.iter().map(|(_, p)| p).sum();
        let mut rest = self.rng.unit() * kept;
        let chosen = order.iter().find(|(_, p)| {
            rest -= p;
            rest < 0.0
        });
        // Rounding can leave a tiny rest behind the last token.
        chosen.or(order.last()).map(|(id, _)| *id as u32)
    }
}

/// The lowest id of the largest logit.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, x) in logits.iter().enumerate() {
        if !x.is_nan() && best.is_none_or(|(_, most)| *x > most) {
            best = Some((id, *x));
        }
    }
    best.map(|(id, _)| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_k: usize, top_p: f64) -> Sampler {
        Sampler { temperature, top_k, top_p, rng: Rng::new(3) }
    }

    fn counts(mut sampler: Sampler, logits: &[f32]) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for _ in 0..10_000 {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals() {
        assert_eq!(sampler(0.0, 0, 1.0).sample(&[1.0, f32::NAN, 3.0, 3.0]), Some(2));
        assert_eq!(sampler(0.0, 0, 1.0).sample(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), Some(0));
        assert_eq!(sampler(0.0, 0, 1.0).sample(&[f32::NAN]), None);
        assert_eq!(sampler(1.0, 0, 1.0).sample(&[f32::NAN]), None);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let found = counts(sampler(1.0, 0, 1.0), &[0.0, 3f32.ln(), f32::NEG_INFINITY]);
        assert!((found[1] as f64 - 7500.0).abs() < 150.0 && found[2] == 0, "{found:?}");
        let found = counts(sampler(2.0, 0, 1.0), &[0.0, 9f32.ln()]);
        assert!((found[1] as f64 - 7500.0).abs() < 150.0, "{found:?}");
    }

    #[test]
    fn unlikely_tokens_are_cut() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        assert_eq!(counts(sampler(1.0, 2, 1.0), &logits)[2], 0);
        assert_eq!(counts(sampler(1.0, 1, 1.0), &logits), [10_000, 0, 0]);
        assert_eq!(counts(sampler(1.0, 0, 0.6), &logits)[2], 0);
        assert_eq!(counts(sampler(1.0, 0, 0.0), &logits), [10_000, 0, 0]);
    }

    #[test]
    fn the_seed_decides() {
        let logits = [0.0; 50];
        let draw = |seed| {
            let mut sampler = Sampler { rng: Rng::new(seed), ..sampler(1.0, 0, 1.0) };
            (0..20).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
