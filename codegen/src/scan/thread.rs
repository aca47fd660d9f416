//! The first level: the items of one thread, in order.

use super::{Action, Monoid};
use crate::kernel::{KernelBuilder, Reg};

/// The composition of all items; the identity if there is none.
pub fn reduce(b: &mut KernelBuilder, m: &impl Monoid, items: &[Vec<Reg>]) -> Vec<Reg> {
    let Some((first, rest)) = items.split_first() else { return m.identity(b) };
    rest.iter().fold(first.clone(), |sum, item| m.compose(b, &sum, item))
}

/// The value after each item, beginning with `value` before the first.
pub fn replay(b: &mut KernelBuilder, m: &impl Action, value: Reg, items: &[Vec<Reg>]) -> Vec<Reg> {
    let step = |value: &mut Reg, item: &Vec<Reg>| {
        *value = m.act(b, item, *value);
        Some(*value)
    };
    items.iter().scan(value, step).collect()
}
