//! The arithmetic that real, complex and integer elements share.

use crate::tensor::{Complex, Data, wrap};
use crate::types::DType;
use std::num::Wrapping;
use std::ops::{Add, Mul};

/// A number with the operations of a ring.
pub(super) trait Num: Copy + Add<Output = Self> + Mul<Output = Self> {
    const ZERO: Self;
    const ONE: Self;
}

impl Num for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

impl Num for Complex {
    const ZERO: Self = Self { re: 0.0, im: 0.0 };
    const ONE: Self = Self { re: 1.0, im: 0.0 };
}

impl Num for Wrapping<i64> {
    const ZERO: Self = Wrapping(0);
    const ONE: Self = Wrapping(1);
}

/// A number with the exponential function.
pub(super) trait Field:
    Num + std::ops::Div<Output = Self> + std::ops::Sub<Output = Self> + PartialEq
{
    fn exp(self) -> Self;
    /// e^x - 1
    fn exp_m1(self) -> Self;
    fn from_f64(x: f64) -> Self;
}

impl Field for f64 {
    fn exp(self) -> Self {
        self.exp()
    }
    fn exp_m1(self) -> Self {
        self.exp_m1()
    }
    fn from_f64(x: f64) -> Self {
        x
    }
}

impl Field for Complex {
    fn exp(self) -> Self {
        self.exp()
    }
    fn exp_m1(self) -> Self {
        self.exp_m1()
    }
    fn from_f64(x: f64) -> Self {
        Complex::new(x, 0.0)
    }
}

/// Integers for arithmetic modulo 2^64.
pub(super) fn wrapping(xs: &[i64]) -> Vec<Wrapping<i64>> {
    xs.iter().copied().map(Wrapping).collect()
}

/// Integers reduced to their type again.
pub(super) fn unwrapped(dtype: DType, xs: Vec<Wrapping<i64>>) -> Data {
    Data::Int(xs.into_iter().map(|x| wrap(dtype, x.0)).collect())
}
