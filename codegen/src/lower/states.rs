//! States that a kernel carries along the sequence: in registers while they are few, else in a local array.

use super::LowerError;
use super::access::Cx;
use crate::kernel::{Elem, KernelBuilder, LocalId, Reg};

/// States that are kept in registers.
pub(super) const UNROLLED_STATES: i64 = 32;

/// The states of one vector of channels: one vector each.
pub(super) enum States {
    Registers(Vec<Reg>),
    Local(LocalId),
}

impl States {
    /// `n` states with the value 0 in registers, or in `local`, whose elements are still unset.
    pub(super) fn new(
        b: &mut KernelBuilder,
        local: Option<LocalId>,
        n: i64,
        (elem, lanes): (Elem, u16),
    ) -> Self {
        match local {
            Some(local) => States::Local(local),
            None => {
                let zero = b.zero(elem.x(lanes));
                States::Registers((0..n).map(|_| b.var_init(zero)).collect())
            }
        }
    }

    /// Runs `body` for each state, given its number and its register, if it has one.
    pub(super) fn for_each<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        n: i64,
        body: &mut dyn FnMut(&mut Cx<'a>, &mut KernelBuilder, Reg, Option<Reg>) -> Result<(), LowerError>,
    ) -> Result<(), LowerError> {
        let mut result = Ok(());
        match self {
            States::Registers(h) => {
                for (i, h) in h.iter().enumerate() {
                    let state = b.const_i64(i as i64);
                    body(cx, b, state, Some(*h))?;
                }
            }
            States::Local(_) => b.for_("n", 0, n, 1, |b, state| {
                result = cx.scope(|cx| body(cx, b, state, None));
            }),
        }
        result
    }

    /// The state that has this register, or else lies at `at`.
    pub(super) fn get(&self, b: &mut KernelBuilder, h: Option<Reg>, at: Reg, lanes: u16) -> Reg {
        match (h, self) {
            (None, States::Local(local)) => b.load(*local, at, lanes),
            (Some(h), _) => h,
            (None, States::Registers(_)) => unreachable!("for_each gives every state in registers its own"),
        }
    }

    pub(super) fn set(&self, b: &mut KernelBuilder, h: Option<Reg>, at: Reg, value: Reg) {
        match (h, self) {
            (None, States::Local(local)) => b.store(*local, at, value),
            (Some(h), _) => b.assign(h, value),
            (None, States::Registers(_)) => unreachable!("for_each gives every state in registers its own"),
        }
    }
}
