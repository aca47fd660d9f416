//! The gates and step sizes of recurrences in `f32`, for targets whose machines have 2^x and 1/x.
//!
//! Where [`super`] reduces arguments exactly these multiply by log2(e) in `f32`. Rounding the product errs by half a unit
//! of the last place of the exponent and rounding the factor by a fifth of that, so the results err by at most
//! `4 + 1.25 |x|` units of the last place. A sigmoid or softplus below 2^-125 may become 0, and with it the product with that
//! sigmoid.
//!
//! | function | special functions of the machine | instructions beside them |
//! |---|---|---|
//! | `sigmoid` | 2^x, 1/x | 2 |
//! | `silu` | 2^x, 1/x | 3 |
//! | `softplus` | 2^x | 14 |

use super::polynomial;
use crate::kernel::{Elem, KernelBuilder, MathOp, Reg};

/// log(1 + u) = u * q(u) for 0 <= u <= 1, to 2 units of the last place; a weighted least-squares fit on Chebyshev nodes
/// that was made equal in its largest errors.
const LOG1P_Q: [f64; 9] = [
    0.9999999403953552,
    -0.4999949336051941,
    0.3331909477710724,
    -0.2484297752380371,
    0.1910598874092102,
    -0.1366320699453354,
    0.07822549343109131,
    -0.029504956677556038,
    0.005232623778283596,
];

/// Appends the code of `op` at `x`, an `f32`, if there is a form for it here.
pub(in crate::legalize) fn expand(b: &mut KernelBuilder, op: MathOp, x: Reg) -> Option<Reg> {
    assert_eq!(b.ty(x).elem(), Elem::F32, "the machine's functions are those of f32");
    match op {
        MathOp::Sigmoid => Some(sigmoid(b, x)),
        MathOp::Silu => {
            let gate = sigmoid(b, x);
            Some(b.mul(x, gate))
        }
        MathOp::Softplus => Some(softplus(b, x)),
        _ => None,
    }
}

/// 1 / (1 + 2^(-x * log2(e)))
fn sigmoid(b: &mut KernelBuilder, x: Reg) -> Reg {
    let exponent = b.mul(x, -std::f64::consts::LOG2_E);
    let e = b.exp2(exponent);
    let denominator = b.add(e, 1.0);
    b.recip(denominator)
}

/// max(x, 0) + log(1 + e^-|x|): both terms are positive, so nothing cancels.
fn softplus(b: &mut KernelBuilder, x: Reg) -> Reg {
    let magnitude = b.abs(x);
    let exponent = b.mul(magnitude, -std::f64::consts::LOG2_E);
    let e = b.exp2(exponent);
    let q = polynomial(b, &LOG1P_Q, e);
    let linear = b.max(0.0, x);
    b.fma(e, q, linear)
}
