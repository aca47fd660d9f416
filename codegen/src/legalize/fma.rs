//! Fused multiply-adds for targets without the instruction.
//!
//! `f32`: the product is exact in `f64`. The sum with the third operand is rounded to odd: if it is not exact, the last
//! bit is set, so that rounding it once more to `f32` gives what one rounding would have given.
//!
//! `f64`: the product is a sum of two numbers (Dekker), and the three terms are added with one rounding to odd in
//! between. Where the magnitude of the product or of a factor is outside `2^-900..2^990`, which the splitting does not
//! bear, product and sum are rounded each; there the bits may differ from those of the instruction.
//!
//! Source: S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
//! odd", 2008.

use super::walk::Walk;
use crate::kernel::*;

/// The kernel without fused multiply-adds.
pub(super) fn expand(kernel: &Kernel) -> Kernel {
    let mut expander = Expander { b: KernelBuilder::rewrite(kernel) };
    expander.list(&kernel.body);
    expander.b.finish()
}

struct Expander {
    b: KernelBuilder,
}

impl Walk for Expander {
    fn builder(&mut self) -> &mut KernelBuilder {
        &mut self.b
    }

    fn inst(&mut self, inst: &Inst) {
        let Inst::Fma { dst, a, b, c } = inst else { return self.b.push(inst.clone()) };
        let operands = [*a, *b, *c];
        if self.b.ty(*a).elem() == Elem::F32 {
            let wide = single(&mut self.b, operands);
            self.b.push(Inst::Cast { dst: *dst, src: wide });
        } else {
            let value = double(&mut self.b, operands);
            self.b.push(Inst::Copy { dst: *dst, src: value });
        }
    }
}

/// x * y + z of `f32`, rounded to odd in `f64`.
fn single(b: &mut KernelBuilder, operands: [Reg; 3]) -> Reg {
    let [x, y, z] = operands.map(|r| b.cast(r, Elem::F64));
    let product = b.mul(x, y);
    add_to_odd(b, product, z)
}

/// x * y + z of `f64`.
fn double(b: &mut KernelBuilder, [x, y, z]: [Reg; 3]) -> Reg {
    let product = b.mul(x, y);
    let plain = b.add(product, z);
    // x * y = product + low.
    let ([x_high, x_low], [y_high, y_low]) = (split(b, x), split(b, y));
    let mut low = b.mul(x_high, y_high);
    low = b.sub(low, product);
    for (x, y) in [(x_high, y_low), (x_low, y_high), (x_low, y_low)] {
        let part = b.mul(x, y);
        low = b.add(low, part);
    }
    let (upper, upper_error) = two_sum(b, z, low);
    let (sum, sum_error) = two_sum(b, product, upper);
    let rest = add_to_odd(b, sum_error, upper_error);
    let exact = b.add(sum, rest);
    let mut is_safe = None;
    for value in [x, y, product] {
        let magnitude = b.abs(value);
        let (above, below) = (b.gt(magnitude, 2f64.powi(-900)), b.lt(magnitude, 2f64.powi(990)));
        let inside = b.and(above, below);
        is_safe = Some(is_safe.map_or(inside, |safe| b.and(safe, inside)));
    }
    let magnitude = b.abs(z);
    let is_small = b.lt(magnitude, 2f64.powi(990));
    let is_safe = is_safe.map_or(is_small, |safe| b.and(safe, is_small));
    b.select(is_safe, exact, plain)
}

/// The upper half of the significand, and the rest.
fn split(b: &mut KernelBuilder, x: Reg) -> [Reg; 2] {
    let scaled = b.mul(x, 134_217_729.0);
    let excess = b.sub(scaled, x);
    let high = b.sub(scaled, excess);
    [high, b.sub(x, high)]
}

/// x + y, and what rounding it lost, exactly; NaN if the sum is infinite.
fn two_sum(b: &mut KernelBuilder, x: Reg, y: Reg) -> (Reg, Reg) {
    let sum = b.add(x, y);
    let y_part = b.sub(sum, x);
    let x_part = b.sub(sum, y_part);
    let (y_error, x_error) = (b.sub(y, y_part), b.sub(x, x_part));
    (sum, b.add(x_error, y_error))
}

/// x + y rounded to odd.
fn add_to_odd(b: &mut KernelBuilder, x: Reg, y: Reg) -> Reg {
    let (sum, error) = two_sum(b, x, y);
    let (above, below) = (b.gt(error, 0.0), b.lt(error, 0.0));
    let is_inexact = b.or(above, below);
    let bits = b.bitcast(sum, Elem::I64);
    let last = b.and(bits, 1);
    let is_even = b.eq(last, 0);
    let is_moved = b.and(is_inexact, is_even);
    // One step away from zero if the exact value is there, else one towards it.
    let is_positive = b.gt(sum, 0.0);
    let grows = b.eq(above, is_positive);
    let (up, down) = (b.add(bits, 1), b.sub(bits, 1));
    let odd = b.select(grows, up, down);
    let bits = b.select(is_moved, odd, bits);
    b.bitcast(bits, Elem::F64)
}
