//! What is scanned: an associative composition of elements that each span some registers.

use crate::kernel::{Elem, KernelBuilder, Reg};

/// An associative composition with an identity; it need not commute.
///
/// The identity may be composed on the right of anything; [`super::warp`] and [`super::block`] never compose it on the
/// left, where `0 * infinity` would turn it into NaN.
pub trait Monoid {
    /// The type of each register of an element.
    fn elems(&self) -> Vec<Elem>;

    /// The element that changes nothing.
    fn identity(&self, b: &mut KernelBuilder) -> Vec<Reg>;

    /// `first`, then `then`.
    fn compose(&self, b: &mut KernelBuilder, first: &[Reg], then: &[Reg]) -> Vec<Reg>;
}

/// A monoid whose elements act on a value held in one register.
pub trait Action: Monoid {
    /// The value that `element` makes of `value`. Composing and then acting is acting twice.
    fn act(&self, b: &mut KernelBuilder, element: &[Reg], value: Reg) -> Reg;
}

/// Maps h -> a*h + u in `f32`, as (a, u).
///
/// # Equation
/// ```text
/// (a1, u1), then (a2, u2) = (a2*a1, a2*u1 + u2)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affine;

impl Monoid for Affine {
    fn elems(&self) -> Vec<Elem> {
        vec![Elem::F32, Elem::F32]
    }

    fn identity(&self, b: &mut KernelBuilder) -> Vec<Reg> {
        vec![b.const_f32(1.0), b.const_f32(0.0)]
    }

    fn compose(&self, b: &mut KernelBuilder, first: &[Reg], then: &[Reg]) -> Vec<Reg> {
        vec![b.mul(then[0], first[0]), b.fma(then[0], first[1], then[1])]
    }
}

impl Action for Affine {
    fn act(&self, b: &mut KernelBuilder, element: &[Reg], value: Reg) -> Reg {
        b.fma(element[0], value, element[1])
    }
}

/// Elements that may begin a segment: the registers of the inner monoid and an `i32` that is 1 where a segment begins.
///
/// An element that begins a segment forgets what came before it, NaN and infinities too, which a factor of 0 would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmented<M>(pub M);

impl<M: Monoid> Segmented<M> {
    fn split(element: &[Reg]) -> (&[Reg], Reg) {
        let (flag, inner) = element.split_last().expect("an element ends with its flag");
        (inner, *flag)
    }
}

impl<M: Monoid> Monoid for Segmented<M> {
    fn elems(&self) -> Vec<Elem> {
        let mut elems = self.0.elems();
        elems.push(Elem::I32);
        elems
    }

    fn identity(&self, b: &mut KernelBuilder) -> Vec<Reg> {
        let mut identity = self.0.identity(b);
        identity.push(b.constant(crate::kernel::Const::i32(0), 1));
        identity
    }

    fn compose(&self, b: &mut KernelBuilder, first: &[Reg], then: &[Reg]) -> Vec<Reg> {
        let ((first, first_begins), (then, then_begins)) = (Self::split(first), Self::split(then));
        let joined = self.0.compose(b, first, then);
        let begins = b.ne(then_begins, 0);
        let mut out = super::choose(b, begins, then, &joined);
        out.push(b.or(first_begins, then_begins));
        out
    }
}

impl Action for Segmented<Affine> {
    fn act(&self, b: &mut KernelBuilder, element: &[Reg], value: Reg) -> Reg {
        let (inner, begins) = Self::split(element);
        let joined = self.0.act(b, inner, value);
        let begins = b.ne(begins, 0);
        b.select(begins, inner[1], joined)
    }
}
