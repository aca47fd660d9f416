//! erf(x): an odd polynomial for small |x|, 1 - exp(-R(|x|)) with R = -log(erfc) above.

use super::{Format, exp, polynomial, with_sign_of};
use crate::kernel::{Elem, KernelBuilder, Reg};

struct Polynomials {
    /// erf(x) = x + x * small(x^2) below `split`
    small: &'static [f64],
    split: f64,
    /// -log(erfc(t)) = large(t - center) from `split` to `one_from`
    large: &'static [f64],
    center: f64,
    /// From here on the result rounds to 1.
    one_from: f64,
}

const F32: Polynomials = Polynomials {
    small: &[
        0.12837916612625122,
        -0.37612631916999817,
        0.11283660680055618,
        -0.026857461780309677,
        0.005196282174438238,
        -0.000808968092314899,
        8.150347275659442e-05,
    ],
    split: 0.92,
    large: &[
        -0.0001692060468485579,
        1.129488468170166,
        0.6334008574485779,
        0.10822039842605591,
        -0.025080624967813492,
        0.004156258422881365,
        -0.00043139432091265917,
        2.082868741126731e-05,
    ],
    center: 0.0,
    one_from: 4.0,
};

const F64: Polynomials = Polynomials {
    small: &[
        0.1283791670955126,
        -0.37612638903183754,
        0.1128379167095512,
        -0.026866170645129868,
        0.005223977625423608,
        -0.0008548327021955853,
        0.00012055332903805339,
        -1.492564759429404e-05,
        1.6462045976652693e-06,
        -1.6364649500087502e-07,
        1.479246918741338e-08,
        -1.2164965987843198e-09,
        8.710456508128823e-11,
        -4.2331163842307205e-12,
    ],
    split: 0.97,
    large: &[
        13.662081267726618,
        7.145317559294072,
        0.9657524015047861,
        0.005449955055687252,
        -0.0009211806371353219,
        0.00015676989404005904,
        -2.615380052388282e-05,
        4.1939796050890245e-06,
        -6.32712460892692e-07,
        8.684256466085755e-08,
        -1.001969695369906e-08,
        7.53902445548003e-10,
        2.8901960558787263e-11,
        -6.632438805997359e-11,
        3.439290848548515e-12,
        3.5314462870048098e-12,
        7.197631724996212e-12,
        2.35061861513513e-12,
        -9.04191902295887e-14,
        -4.576151054689834e-13,
        -2.028390482669465e-13,
        -4.601222613443573e-14,
        -5.608615466059475e-15,
        -2.8106138961334295e-16,
    ],
    center: 3.4375,
    one_from: 5.93,
};

pub(super) fn erf(b: &mut KernelBuilder, f: &Format, x: Reg) -> Reg {
    let p = if f.elem == Elem::F32 { &F32 } else { &F64 };
    let t = b.abs(x);
    let square = b.mul(x, x);
    let q = polynomial(b, p.small, square);
    let small = b.fma(q, x, x);
    let limited = b.min(p.one_from, t);
    let centered = if p.center == 0.0 { limited } else { b.sub(limited, p.center) };
    let log = polynomial(b, p.large, centered);
    let log = b.neg(log);
    let complement = exp::exp(b, f, log);
    let large = b.sub(1.0, complement);
    let large = with_sign_of(b, f, large, x);
    let is_small = b.lt(t, p.split);
    b.select(is_small, small, large)
}
