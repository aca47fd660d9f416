//! Weighted means with a running maximum, step by step.

use super::body::{Body, Name};
use super::recurrence::UNROLLED;
use super::writer::Writer;
use ssmc_ir::ops::Wkv;
use ssmc_ir::{DType, Node};

/// Sums of `exp(exponent) * value` and of `exp(exponent)`, over exp(max).
struct Mean {
    num: Name,
    den: Name,
    max: Name,
}

impl Mean {
    /// Of one value alone, also where it weighs nothing.
    fn of(body: &mut Body, dtype: DType, exponent: &str, value: &str) -> Self {
        // A number that every element type has.
        let finite = body.scalar(dtype, f64::from(i16::MIN));
        let finite = body.op("Max", &[exponent, &finite]);
        let zero = body.op("Sub", &[&finite, &finite]);
        let (num, max) = (body.op("Identity", &[value]), body.op("Identity", &[exponent]));
        Self { num, den: body.op("Exp", &[&zero]), max }
    }

    /// With one more value.
    fn and(&self, body: &mut Body, exponent: &str, value: &str) -> Self {
        let max = body.op("Max", &[&self.max, exponent]);
        let [old, new] = [&self.max, exponent].map(|e| {
            let below = body.op("Sub", &[e, &max]);
            body.op("Exp", &[&below])
        });
        let (kept, added) = (body.op("Mul", &[&old, &self.num]), body.op("Mul", &[&new, value]));
        let num = body.op("Add", &[&kept, &added]);
        let kept = body.op("Mul", &[&old, &self.den]);
        let den = body.op("Add", &[&kept, &new]);
        Self { num, den, max }
    }

    fn value(&self, body: &mut Body) -> Name {
        body.op("Div", &[&self.num, &self.den])
    }
}

impl Writer<'_> {
    pub(super) fn wkv(&mut self, node: &Node, op: &Wkv) -> Result<Vec<Name>, String> {
        if node.operands[7..].iter().any(Option::is_some) {
            return Err("packed sequences and slots".to_owned());
        }
        let shape = |i: usize| node.operands[i].map(|v| &self.ty(v).shape).ok_or("an operand is missing");
        let dtype = self.ty(node.results[0]).dtype;
        let constant = shape(0)?[1].is(1);
        let len = shape(1)?[1].as_const().and_then(|n| usize::try_from(n).ok());
        let len = len
            .filter(|n| (1..=UNROLLED).contains(n))
            .ok_or_else(|| format!("a weighted mean over other than 1 to {UNROLLED} steps"))?;
        self.call(node, |body, x| {
            let w = if constant { vec![x.get(0)?.to_owned(); len] } else { body.split(x.get(0)?, 1, len) };
            let (k, v) = (body.split(x.get(1)?, 1, len), body.split(x.get(2)?, 1, len));
            let mut state = match (x.find(4), x.find(5), x.find(6)) {
                (Some(num), Some(den), Some(max)) => {
                    let [num, den, max] = [num, den, max].map(|state| body.unsqueeze(state, &[1]));
                    Some(Mean { num, den, max })
                }
                _ => None,
            };
            let mut y = vec![Name::new(); len];
            let order: Vec<usize> = if op.reverse { (0..len).rev().collect() } else { (0..len).collect() };
            for t in order {
                if let Some(u) = x.find(3) {
                    let own = body.op("Add", &[u, &k[t]]);
                    let mean = match &state {
                        Some(state) => state.and(body, &own, &v[t]),
                        None => Mean::of(body, dtype, &own, &v[t]),
                    };
                    y[t] = mean.value(body);
                }
                let next = match state {
                    Some(state) => {
                        let max = body.op("Add", &[&state.max, &w[t]]);
                        Mean { max, ..state }.and(body, &k[t], &v[t])
                    }
                    None => Mean::of(body, dtype, &k[t], &v[t]),
                };
                if x.find(3).is_none() {
                    y[t] = next.value(body);
                }
                state = Some(next);
            }
            let last = state.ok_or("there are no steps")?;
            let mut results = vec![body.concat(&y, 1)];
            for state in [&last.num, &last.den, &last.max] {
                results.push(body.squeeze(state, &[1]));
            }
            Ok(results)
        })
    }
}
