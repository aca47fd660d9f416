use super::*;

#[test]
fn index_arithmetic_folds() {
    let mut b = KernelBuilder::cpu("fold");
    let n = b.dim("n");
    let four = b.const_i64(4);
    assert_eq!(b.dim("n"), n);
    assert_eq!(b.add(n, 0), n);
    assert_eq!(b.mul(n, 1), n);
    let zero = b.mul(n, 0);
    assert_eq!(b.known_i64(zero), Some(0));
    let ten = b.ceil_div(39, four);
    assert_eq!(b.known_i64(ten), Some(10));
    assert_eq!(b.const_i64(4), four);
}

#[test]
fn variables_are_not_aliased() {
    let mut b = KernelBuilder::cpu("alias");
    let zero = b.const_i64(0);
    let v = b.var_init(zero);
    let before = b.add(v, 0);
    assert_ne!(before, v);
    b.assign(v, 7);
    let kernel = b.finish();
    assert_eq!(kernel.body.len(), 5);
}

#[test]
#[should_panic(expected = "binary of")]
fn mixed_types_panic() {
    let mut b = KernelBuilder::cpu("mixed");
    let i = b.const_i64(1);
    let x = b.const_f32(1.0);
    b.add(i, x);
}
