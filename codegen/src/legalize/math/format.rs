//! What the algorithms need to know about a float type.
//!
//! Polynomials are minimax fits (Remez) over the reduced range, the coefficients rounded to the type.

use crate::kernel::Elem;

pub(super) struct Format {
    pub(super) elem: Elem,
    /// Signed integer type of the same width.
    pub(super) int: Elem,
    pub(super) sign_bit: i64,
    /// Bits of the mantissa field.
    pub(super) mantissa: i64,
    /// Bits of 1.0.
    pub(super) one: i64,
    /// 1.5 * 2^mantissa: adding it rounds to an integer, which then stands in the low bits.
    pub(super) magic: f64,
    pub(super) log2_e: f64,
    /// ln 2 in two parts.
    pub(super) ln2_hi: f64,
    pub(super) ln2_lo: f64,
    /// Arguments beyond these give infinity and zero.
    pub(super) exp_max: f64,
    pub(super) exp_min: f64,
    pub(super) exp2_max: f64,
    pub(super) exp2_min: f64,
    /// Below this `expm1` is -1.
    pub(super) expm1_min: f64,
    /// e^r = 1 + r + r^2 * q(r) for |r| <= ln(2) / 2
    pub(super) exp_q: &'static [f64],
    /// 2^r = 1 + r * q(r) for |r| <= 1/2
    pub(super) exp2_q: &'static [f64],
    /// Bits of 2/3, the lower end of the reduced arguments of `log`.
    pub(super) two_thirds: i64,
    /// Bits of 4.0
    pub(super) four: i64,
    pub(super) min_normal: f64,
    /// log(1 + r) = r - r^2 / 2 + r^3 * p(r) for |r| <= 1/3
    pub(super) log_p: &'static [f64],
}

pub(super) const F32: Format = Format {
    elem: Elem::F32,
    int: Elem::I32,
    sign_bit: 1 << 31,
    mantissa: 23,
    one: 0x3f80_0000,
    magic: 12_582_912.0,
    log2_e: std::f64::consts::LOG2_E,
    ln2_hi: 0.693_147_182_464_599_6,
    ln2_lo: -1.904_654_212_125_933_6e-9,
    exp_max: 89.0,
    exp_min: -87.5,
    exp2_max: 128.25,
    exp2_min: -126.25,
    expm1_min: -20.0,
    exp_q: &[0.5, 0.166665181517601, 0.04166620224714279, 0.008368953131139278, 0.0013950609136372805],
    exp2_q: &[
        0.6931471824645996,
        0.24022650718688965,
        0.055503249168395996,
        0.009618096984922886,
        0.0013401373289525509,
        0.00015445462486241013,
    ],
    two_thirds: 0x3f2a_aaab,
    four: 0x4080_0000,
    min_normal: f32::MIN_POSITIVE as f64,
    log_p: &[
        0.33333224058151245,
        -0.24999688565731049,
        0.20010043680667877,
        -0.1668546497821808,
        0.14010918140411377,
        -0.12115123867988586,
        0.13962461054325104,
        -0.1319168508052826,
    ],
};

pub(super) const F64: Format = Format {
    elem: Elem::F64,
    int: Elem::I64,
    sign_bit: i64::MIN,
    mantissa: 52,
    one: 0x3ff0_0000_0000_0000,
    magic: 6_755_399_441_055_744.0,
    log2_e: std::f64::consts::LOG2_E,
    ln2_hi: std::f64::consts::LN_2,
    ln2_lo: 2.3190468138462996e-17,
    exp_max: 710.0,
    exp_min: -708.6,
    exp2_max: 1024.25,
    exp2_min: -1022.25,
    expm1_min: -40.0,
    exp_q: &[
        0.5,
        0.16666666666666685,
        0.04166666666666673,
        0.00833333333331662,
        0.0013888888888858317,
        0.00019841269897362176,
        2.480158737396546e-05,
        2.7557233929031195e-06,
        2.7557233179349444e-07,
        2.511234865847425e-08,
        2.092699659761675e-09,
    ],
    exp2_q: &[
        std::f64::consts::LN_2,
        0.24022650695910072,
        0.05550410866482164,
        0.00961812910762849,
        0.0013333558146401698,
        0.00015403530393347703,
        1.5252733847180139e-05,
        1.3215486828710897e-06,
        1.0178054506197694e-07,
        7.054889592631379e-09,
        4.4562280084452263e-10,
        2.5740230773396702e-11,
    ],
    two_thirds: 0x3fe5_5555_5555_5555,
    four: 0x4010_0000_0000_0000,
    min_normal: f64::MIN_POSITIVE,
    log_p: &[
        0.33333333333333187,
        -0.2499999999999902,
        0.20000000000069396,
        -0.16666666666959673,
        0.14285714274906391,
        -0.12499999966451968,
        0.11111111931508007,
        -0.1000000201259845,
        0.09090873653233299,
        -0.08333261459691857,
        0.07693247003149542,
        -0.0714448111441163,
        0.06650887677415654,
        -0.06226228833834884,
        0.060500776947359475,
        -0.057793265573923454,
        0.04182256193779986,
        -0.03707863366892865,
        0.08487851851966985,
        -0.08562163155563378,
    ],
};
