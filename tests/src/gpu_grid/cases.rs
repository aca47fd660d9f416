//! The graphs of the grid. `T` stands for the element type, `rows` for all positions of all sequences.

use ssmc_ir::interp::Precision;

/// Batches and lengths.
type Sizes = &'static [[usize; 2]];

/// One graph over the symbols `batch` and `len`, or `rows`.
pub(super) struct Template {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) sizes: Sizes,
    /// What the tolerance of the element type is multiplied by.
    pub(super) slack: f64,
    /// How the reference computes: with the roundings of what kernels store for each other, where the case has such.
    pub(super) precision: Precision,
}

const fn of(name: &'static str, sizes: Sizes, text: &'static str) -> Template {
    Template { name, text, sizes, slack: 1.0, precision: Precision::Truth }
}

/// Lengths around the tiles of scans, and batches with which every schedule of 512 channels runs.
const SCANS: Sizes =
    &[[1, 0], [1, 1], [1, 15], [3, 16], [2, 17], [1, 33], [1, 65], [1, 131], [7, 35], [9, 18], [33, 18]];
/// The same for 32 channels.
const NARROW_SCANS: Sizes =
    &[[1, 0], [1, 1], [3, 16], [2, 17], [1, 33], [1, 65], [1, 131], [101, 9], [131, 5], [513, 3]];
/// Lengths around a chunk of 64 steps.
const CHUNKS: Sizes = &[[1, 0], [1, 1], [3, 2], [1, 63], [2, 64], [3, 65], [1, 130], [1, 260]];
/// Lengths around the tails of convolutions and the tiles of their kernels.
const TAILS: Sizes = &[[1, 0], [1, 1], [3, 2], [1, 3], [2, 4], [5, 31], [1, 33], [3, 65], [1, 300]];
/// Rows around those of vectors and of tiles.
const ROWS: Sizes = &[[1, 0], [1, 1], [1, 2], [3, 3], [1, 8], [1, 9], [3, 43], [1, 130]];
/// The same, and as many as large tiles of few columns take.
const MANY_ROWS: Sizes = &[[1, 0], [1, 1], [1, 2], [1, 8], [1, 9], [3, 43], [1, 6200]];
/// Sequences of a step.
const STEPS: Sizes = &[[1, 1], [2, 1], [5, 1], [33, 1]];
/// Sizes for ops whose threads have an element or a row each.
const FEW: Sizes = &[[1, 0], [1, 1], [3, 7], [1, 130]];

pub(super) const TEMPLATES: &[Template] = &[
    of("selective scan", SCANS, "func @f(%x: T[batch, len, 1, 512], %dt: T[batch, len, 1, 512], %a: T[1, 512, 16], \
        %b: T[batch, len, 1, 16], %c: T[batch, len, 1, 16], %d: T[1, 512], %z: T[batch, len, 1, 512], %bias: T[1, 512]) {
          %y, %h = ssm.selective_scan %x, %dt, %a, %b, %c, %d, %z, %bias {dt_softplus=true} : T[batch, len, 1, 512], T[batch, 1, 512, 16]
          return %y \"y\", %h \"h\"
        }"),
    of("selective scan of odd sizes", NARROW_SCANS, "func @f(%x: T[batch, len, 2, 17], %dt: T[batch, len, 2, 17], %a: T[2, 17, 17], \
        %b: T[batch, len, 2, 17], %c: T[batch, len, 2, 17], %bias: T[2, 17], %h0: T[batch, 2, 17, 17]) {
          %y, %h = ssm.selective_scan %x, %dt, %a, %b, %c, _, _, %bias, %h0 {dt_softplus=true} : T[batch, len, 2, 17], T[batch, 2, 17, 17]
          return %y \"y\", %h \"h\"
        }"),
    of("packed selective scan", NARROW_SCANS, "func @f(%x: T[batch, len, 1, 33], %dt: T[batch, len, 1, 33], %a: T[1, 33, 8], \
        %b: T[batch, len, 1, 8], %c: T[batch, len, 1, 8], %d: T[1, 33], %bias: T[1, 33], %seq: i32[batch, len]) {
          %y, %h = ssm.selective_scan %x, %dt, %a, %b, %c, %d, _, %bias, _, %seq {dt_softplus=true} : T[batch, len, 1, 33], T[batch, 1, 33, 8]
          return %y \"y\", %h \"h\"
        }"),
    of("reversed selective scan", NARROW_SCANS, "func @f(%x: T[batch, len, 1, 36], %dt: T[batch, len, 1, 36], %a: T[1, 36, 4], \
        %b: T[batch, len, 1, 4], %c: T[batch, len, 1, 4], %bias: T[1, 36]) {
          %y, %h = ssm.selective_scan %x, %dt, %a, %b, %c, _, _, %bias {dt_softplus=true, reverse=true} : T[batch, len, 1, 36], T[batch, 1, 36, 4]
          return %y \"y\", %h \"h\"
        }"),
    of("step of a selective scan", STEPS, "func @f(%x: T[batch, 1, 1, 96], %dt: T[batch, 1, 1, 96], %a: T[1, 96, 16], \
        %b: T[batch, 1, 1, 16], %c: T[batch, 1, 1, 16], %d: T[1, 96], %z: T[batch, 1, 1, 96], %bias: T[1, 96], %h0: T[batch, 1, 96, 16]) {
          %y, %h = ssm.selective_scan %x, %dt, %a, %b, %c, %d, %z, %bias, %h0 {dt_softplus=true} : T[batch, 1, 1, 96], T[batch, 1, 96, 16]
          return %y \"y\", %h \"h\"
        }"),
    Template { slack: 4.0, ..of("ssd", CHUNKS, "func @f(%x: T[batch, len, 1, 3, 64], %dt: T[batch, len, 1, 3], %a: T[1, 3], \
        %b: T[batch, len, 1, 128], %c: T[batch, len, 1, 128], %d: T[1, 3, 1], %bias: T[1, 3]) {
          %y, %h = ssm.ssd %x, %dt, %a, %b, %c, %d, _, %bias {chunk_size=256, dt_softplus=true, mode=chunked} : T[batch, len, 1, 3, 64], T[batch, 1, 3, 64, 128]
          return %y \"y\", %h \"h\"
        }") },
    Template { slack: 4.0, ..of("ssd of a state", CHUNKS, "func @f(%x: T[batch, len, 2, 2, 32], %dt: T[batch, len, 2, 2], %a: T[2, 2], \
        %b: T[batch, len, 2, 64], %c: T[batch, len, 2, 64], %d: T[2, 2, 32], %z: T[batch, len, 2, 2, 32], %bias: T[2, 2], %h0: T[batch, 2, 2, 32, 64]) {
          %y, %h = ssm.ssd %x, %dt, %a, %b, %c, %d, %z, %bias, %h0 {chunk_size=64, dt_softplus=true, mode=chunked} : T[batch, len, 2, 2, 32], T[batch, 2, 2, 32, 64]
          return %y \"y\", %h \"h\"
        }") },
    Template { slack: 4.0, ..of("recurrent ssd", &[[1, 0], [1, 1], [3, 9]], "func @f(%x: T[batch, len, 1, 3, 5], %dt: T[batch, len, 1, 3], %a: T[1, 3], \
        %b: T[batch, len, 1, 7], %c: T[batch, len, 1, 7], %bias: T[1, 3]) {
          %y, %h = ssm.ssd %x, %dt, %a, %b, %c, _, _, %bias {dt_softplus=true} : T[batch, len, 1, 3, 5], T[batch, 1, 3, 5, 7]
          return %y \"y\", %h \"h\"
        }") },
    of("step of ssd", STEPS, "func @f(%x: T[batch, 1, 1, 4, 64], %dt: T[batch, 1, 1, 4], %a: T[1, 4], \
        %b: T[batch, 1, 1, 128], %c: T[batch, 1, 1, 128], %d: T[1, 4, 1], %z: T[batch, 1, 1, 4, 64], %bias: T[1, 4], %h0: T[batch, 1, 4, 64, 128]) {
          %y, %h = ssm.ssd %x, %dt, %a, %b, %c, %d, %z, %bias, %h0 {dt_softplus=true} : T[batch, 1, 1, 4, 64], T[batch, 1, 4, 64, 128]
          return %y \"y\", %h \"h\"
        }"),
    of("convolution", TAILS, "func @f(%x: T[batch, len, 256], %w: T[256, 4], %bias: T[256]) {
          %y, %tail = ssm.causal_conv1d %x, %w, %bias {activation=silu} : T[batch, len, 256], T[batch, 3, 256]
          return %y \"y\", %tail \"tail\"
        }"),
    of("convolution of a state", TAILS, "func @f(%x: T[batch, len, 33], %w: T[33, 4], %bias: T[33], %state: T[batch, 3, 33]) {
          %y, %tail = ssm.causal_conv1d %x, %w, %bias, %state : T[batch, len, 33], T[batch, 3, 33]
          return %y \"y\", %tail \"tail\"
        }"),
    of("packed convolution", TAILS, "func @f(%x: T[batch, len, 40], %w: T[40, 4], %seq: i32[batch, len]) {
          %y, %tail = ssm.causal_conv1d %x, %w, _, _, %seq {activation=silu} : T[batch, len, 40], T[batch, 3, 40]
          return %y \"y\", %tail \"tail\"
        }"),
    of("small product", MANY_ROWS, "func @f(%x: T[rows, 72], %w: T[80, 72]) {
          %y = contract[mk,nk->mn] %x, %w : T[rows, 80]
          return %y \"y\"
        }"),
    of("product of odd sizes", ROWS, "func @f(%x: T[rows, 33], %w: T[33, 7]) {
          %y = contract[mk,kn->mn] %x, %w : T[rows, 7]
          return %y \"y\"
        }"),
    of("large product", &[[1, 1]], "func @f(%x: T[300, 136], %w: T[264, 136]) {
          %y = contract[mk,nk->mn] %x, %w : T[300, 264]
          return %y \"y\"
        }"),
    of("tall product", &[[1, 1], [1, 2], [1, 40], [1, 300], [1, 8200], [1, 16400]], "func @f(%x: T[rows, 8], %w: T[384, 8]) {
          %y = contract[mk,nk->mn] %x, %w : T[rows, 384]
          return %y \"y\"
        }"),
    of("wide product", &[[1, 1], [1, 5], [1, 40], [1, 130], [1, 4100]], "func @f(%x: T[rows, 8], %w: T[640, 8]) {
          %y = contract[mk,nk->mn] %x, %w : T[rows, 640]
          return %y \"y\"
        }"),
    of("large product of columns", &[[1, 1], [1, 3], [3, 43], [1, 300]], "func @f(%x: T[rows, 40], %w: T[40, 264]) {
          %y = contract[mk,kn->mn] %x, %w : T[rows, 264]
          return %y \"y\"
        }"),
    of("product with an epilogue", MANY_ROWS, "func @f(%x: T[rows, 16], %w: T[136, 16], %bias: T[136], %r: T[rows, 136]) {
          %p = contract[mk,nk->mn] %x, %w : T[rows, 136]
          %wide = broadcast %bias {axes=[1], shape=[rows, 136]} : T[rows, 136]
          %q = add %p, %wide : T[rows, 136]
          %s = silu %q : T[rows, 136]
          %y = add %s, %r : T[rows, 136]
          return %y \"y\"
        }"),
    of("product of a norm", MANY_ROWS, "func @f(%x: T[rows, 96], %g: T[96], %w: T[64, 96]) {
          %n = rms_norm %x, %g {eps=1e-5} : T[rows, 96]
          %y = contract[mk,nk->mn] %n, %w : T[rows, 64]
          return %y \"y\"
        }"),
    of("product of a norm, and the step of a convolution", MANY_ROWS, "func @f(%x: T[rows, 1, 64], %g: T[64], %w: T[96, 64], %k: T[96, 4], \
        %bias: T[96], %state: T[rows, 3, 96]) {
          %n = rms_norm %x, %g {eps=1e-5} : T[rows, 1, 64]
          %p = contract[blk,nk->bln] %n, %w : T[rows, 1, 96]
          %y, %tail = ssm.causal_conv1d %p, %k, %bias, %state {activation=silu} : T[rows, 1, 96], T[rows, 3, 96]
          return %y \"y\", %tail \"tail\"
        }"),
    Template { precision: Precision::Typed, ..of("product scaled by rows that another one made", MANY_ROWS, "func @f(%x: T[rows, 64], %p: f32[rows, 136], %a: T[136, 64], %w: T[96, 136]) {
          %x32 = cast %x {to=f32} : f32[rows, 64]
          %a32 = cast %a {to=f32} : f32[136, 64]
          %w32 = cast %w {to=f32} : f32[96, 136]
          %s0 = contract[ab,cb->ac] %x32, %a32 : f32[rows, 136]
          %s = add %s0, %p : f32[rows, 136]
          %h = cast %s {to=T} : T[rows, 136]
          %v = cast %h {to=f32} : f32[rows, 136]
          %q = mul %v, %v : f32[rows, 136]
          %m = reduce %q {axes=[1], f=mean} : f32[rows]
          %c = constant {data=[1e-5], shape=[]} : f32[]
          %eps = broadcast %c {axes=[], shape=[rows]} : f32[rows]
          %e = add %m, %eps : f32[rows]
          %r = rsqrt %e : f32[rows]
          %y0 = contract[ab,cb->ac] %v, %w32 : f32[rows, 96]
          %all = broadcast %r {axes=[0], shape=[rows, 96]} : f32[rows, 96]
          %y = mul %y0, %all : f32[rows, 96]
          return %y \"y\", %s \"s\"
        }") },
    of("batches of products", &[[1, 1], [2, 5], [3, 9], [2, 70]], "func @f(%x: T[batch, len, 3, 8], %w: T[batch, len, 3, 8]) {
          %y = contract[blhk,bmhk->bhlm] %x, %w : T[batch, 3, len, len]
          return %y \"y\"
        }"),
    of("norm", ROWS, "func @f(%x: T[batch, len, 768], %w: T[768]) {
          %y = rms_norm %x, %w {eps=1e-5} : T[batch, len, 768]
          return %y \"y\"
        }"),
    of("norm of odd sizes", ROWS, "func @f(%x: T[batch, len, 33], %w: T[33]) {
          %y = layer_norm %x, %w {eps=1e-5} : T[batch, len, 33]
          return %y \"y\"
        }"),
    of("gated norm", ROWS, "func @f(%x: T[batch, len, 96], %z: T[batch, len, 96], %w: T[96]) {
          %y = gated_rms_norm %x, %z, %w {eps=1e-5} : T[batch, len, 96]
          return %y \"y\"
        }"),
    of("sums", FEW, "func @f(%x: T[batch, len, 70]) {
          %y = reduce %x {axes=[2], f=sum} : T[batch, len]
          %m = reduce %x {axes=[2], f=max} : T[batch, len]
          %n = reduce %x {axes=[1], f=mean} : T[batch, 70]
          return %y \"y\", %m \"m\", %n \"n\"
        }"),
    of("running sum", FEW, "func @f(%x: T[batch, len, 6]) {
          %y = cumsum %x {axis=1} : T[batch, len, 6]
          return %y \"y\"
        }"),
    of("softmax", &[[1, 1], [3, 7]], "func @f(%x: T[batch, len, 130]) {
          %m = reduce %x {axes=[2], f=max} : T[batch, len]
          %mm = broadcast %m {axes=[0, 1], shape=[batch, len, 130]} : T[batch, len, 130]
          %d = sub %x, %mm : T[batch, len, 130]
          %e = exp %d : T[batch, len, 130]
          %s = reduce %e {axes=[2], f=sum} : T[batch, len]
          %ss = broadcast %s {axes=[0, 1], shape=[batch, len, 130]} : T[batch, len, 130]
          %y = div %e, %ss : T[batch, len, 130]
          return %y \"y\"
        }"),
    of("choice of a token", STEPS, "func @f(%x: T[batch, 5003]) {
          %y = argmax %x {axis=1} : i64[batch]
          return %y \"y\"
        }"),
    of("embedding", FEW, "func @f(%x: T[50, 72], %ids: i64[batch, len]) {
          %y = gather %x, %ids {axis=0} : T[batch, len, 72]
          return %y \"y\"
        }"),
    of("elements", FEW, "func @f(%x: T[batch, len, 24], %z: T[batch, len, 24]) {
          %0 = softplus %x : T[batch, len, 24]
          %1 = sigmoid %z : T[batch, len, 24]
          %2 = mul %0, %1 : T[batch, len, 24]
          %3 = tanh %2 : T[batch, len, 24]
          %4 = erf %x : T[batch, len, 24]
          %5 = sin %z : T[batch, len, 24]
          %6 = cos %4 : T[batch, len, 24]
          %7 = max %5, %6 : T[batch, len, 24]
          %y = sub %3, %7 : T[batch, len, 24]
          return %y \"y\"
        }"),
    of("views", FEW, "func @f(%x: T[batch, len, 24], %z: T[batch, len, 6]) {
          %t = transpose %x {perm=[2, 0, 1]} : T[24, batch, len]
          %s = slice %x {axis=2, len=6, start=5} : T[batch, len, 6]
          %r = reverse %s {axis=1} : T[batch, len, 6]
          %c = concat %r, %z {axis=1} : T[batch, 2*len, 6]
          return %t \"t\", %c \"c\"
        }"),
    of("diagonal scan", &[[1, 0], [1, 1], [3, 17], [2, 65]], "func @f(%decay: T[batch, len, 24], %x: T[batch, len, 24], %h0: T[batch, 24], \
        %seq: i32[batch, len]) {
          %y, %h = ssm.scan %decay, %x, %h0, %seq : T[batch, len, 24], T[batch, 24]
          return %y \"y\", %h \"h\"
        }"),
    of("long convolution", &[[1, 1], [3, 17], [2, 65]], "func @f(%x: T[batch, len, 3], %w: T[9, 3]) {
          %y, %tail = ssm.long_conv %x, %w : T[batch, len, 3], T[batch, 8, 3]
          return %y \"y\", %tail \"tail\"
        }"),
];
