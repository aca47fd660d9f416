//! The operators that can be imported: one table.

use super::ctx::Ctx;
use super::import::rnn::Cell;
use super::import::{
    activation, align, attention, control, convolution, elementwise, fourier, gated, generate, layout, logic,
    loss, microsoft, ngrams, norm, packed, pad, pool, product, quantize, rearrange, recurrent, reduce,
    resize, rnn, sample, scatter, sequence, sources, split, transposed, trig,
};
use super::importer::{Imported, Val};
use ssmc_ir::ops::{BinaryFn, Cmp, ReduceFn, UnaryFn};

/// Builds the IR of one node and gives its outputs.
pub(crate) type ImportFn = fn(&mut Ctx<'_, '_>) -> Imported<Vec<Val>>;

/// One operator over a range of versions of its domain.
pub(crate) struct OpEntry {
    domain: &'static str,
    name: &'static str,
    since: i64,
    until: i64,
    pub(crate) import: ImportFn,
}

/// The importer of an operator at a version of its domain.
pub(crate) fn find(domain: &str, name: &str, version: i64) -> Option<&'static OpEntry> {
    OPS.iter().find(|op| op.name == name && op.domain == domain && (op.since..=op.until).contains(&version))
}

/// Why an operator is not supported at this version, where there is more to say than that it is unknown.
pub(crate) fn refusal(domain: &str, name: &str, version: i64) -> Option<String> {
    if let Some((.., reason)) = REFUSED.iter().find(|(d, n, _)| *d == domain && (*n == name || n.is_empty()))
    {
        return Some((*reason).to_owned());
    }
    let first = OPS.iter().find(|op| op.name == name && op.domain == domain)?.since;
    (version < first).then(|| format!("versions from {first} on are"))
}

/// An operator of the standard domain, from a version on.
const fn op(name: &'static str, since: i64, import: ImportFn) -> OpEntry {
    OpEntry { domain: "", name, since, until: i64::MAX, import }
}

/// An operator of `com.microsoft`.
const fn vendor(name: &'static str, import: ImportFn) -> OpEntry {
    OpEntry { domain: "com.microsoft", name, since: 1, until: i64::MAX, import }
}

/// An operator of the standard domain, over a range of versions.
const fn old(name: &'static str, since: i64, until: i64, import: ImportFn) -> OpEntry {
    OpEntry { domain: "", name, since, until, import }
}

static OPS: &[OpEntry] = &[
    op("Abs", 1, |c| elementwise::unary(c, UnaryFn::Abs)),
    op("Acos", 7, trig::acos),
    op("Acosh", 9, trig::acosh),
    op("Add", 7, |c| elementwise::arithmetic(c, BinaryFn::Add)),
    op("AffineGrid", 20, sample::affine_grid),
    op("And", 7, |c| logic::connective(c, BinaryFn::And)),
    op("ArgMax", 1, reduce::arg_max),
    op("ArgMin", 1, reduce::arg_min),
    op("Asin", 7, trig::asin),
    op("Asinh", 9, trig::asinh),
    op("Atan", 7, trig::atan),
    op("Atanh", 9, trig::atanh),
    op("Attention", 23, attention::attention),
    op("AveragePool", 7, pool::average_pool),
    op("BatchNormalization", 7, norm::batch_norm),
    op("BitCast", 26, generate::bit_cast),
    op("BitShift", 11, generate::bit_shift),
    op("BitwiseAnd", 18, |c| logic::bitwise(c, BinaryFn::And)),
    op("BitwiseNot", 18, generate::bitwise_not),
    op("BitwiseOr", 18, |c| logic::bitwise(c, BinaryFn::Or)),
    op("BitwiseXor", 18, |c| logic::bitwise(c, BinaryFn::Xor)),
    op("BlackmanWindow", 17, generate::blackman_window),
    op("Cast", 6, elementwise::cast),
    op("CastLike", 15, elementwise::cast_like),
    op("CausalConvWithState", 27, recurrent::causal_conv_with_state),
    op("Ceil", 6, |c| elementwise::unary(c, UnaryFn::Ceil)),
    op("Celu", 12, activation::celu),
    op("CenterCropPad", 18, resize::center_crop_pad),
    old("Clip", 6, 10, elementwise::clip_attributes),
    op("Clip", 11, elementwise::clip),
    op("Col2Im", 18, transposed::col2im),
    op("Compress", 9, rearrange::compress),
    op("Concat", 4, layout::concat),
    op("ConcatFromSequence", 11, sequence::concat),
    op("Constant", 1, sources::constant),
    op("ConstantOfShape", 9, sources::constant_of_shape),
    op("Conv", 1, convolution::conv),
    op("ConvInteger", 10, quantize::conv_integer),
    op("ConvTranspose", 1, transposed::conv_transpose),
    op("Cos", 7, |c| elementwise::unary(c, UnaryFn::Cos)),
    op("Cosh", 9, trig::cosh),
    op("CumProd", 26, generate::cum_prod),
    op("CumSum", 11, reduce::cumsum),
    op("DFT", 17, fourier::dft),
    op("DeformConv", 19, align::deform_conv),
    op("DepthToSpace", 1, layout::depth_to_space),
    op("DequantizeLinear", 10, quantize::dequantize_linear),
    op("Det", 11, generate::det),
    op("Div", 7, |c| elementwise::arithmetic(c, BinaryFn::Div)),
    op("Dropout", 7, elementwise::dropout),
    op("DynamicQuantizeLinear", 11, quantize::dynamic_quantize_linear),
    op("Einsum", 12, product::einsum),
    op("Elu", 6, elementwise::elu),
    op("Equal", 7, |c| logic::compare(c, Cmp::Eq)),
    op("Erf", 9, |c| elementwise::unary(c, UnaryFn::Erf)),
    op("Exp", 6, |c| elementwise::unary(c, UnaryFn::Exp)),
    op("Expand", 8, layout::expand),
    op("EyeLike", 9, generate::eye_like),
    op("Flatten", 1, layout::flatten),
    op("Floor", 6, |c| elementwise::unary(c, UnaryFn::Floor)),
    op("GRU", 7, |c| rnn::recurrent(c, Cell::Gru)),
    op("Gather", 1, layout::gather),
    op("GatherElements", 11, scatter::gather_elements),
    op("GatherND", 11, scatter::gather_nd),
    op("Gelu", 20, elementwise::gelu),
    op("Gemm", 7, product::gemm),
    op("GlobalAveragePool", 1, |c| pool::global(c, ReduceFn::Mean)),
    op("GlobalLpPool", 2, pool::global_lp),
    op("GlobalMaxPool", 1, |c| pool::global(c, ReduceFn::Max)),
    op("Greater", 7, |c| logic::compare(c, Cmp::Gt)),
    op("GreaterOrEqual", 12, |c| logic::compare(c, Cmp::Ge)),
    op("GridSample", 16, sample::grid_sample),
    op("GroupNormalization", 18, norm::group_norm),
    op("HammingWindow", 17, generate::hamming_window),
    op("HannWindow", 17, generate::hann_window),
    op("HardSigmoid", 6, elementwise::hard_sigmoid),
    op("HardSwish", 14, elementwise::hard_swish),
    op("Hardmax", 1, activation::hardmax),
    op("Identity", 1, elementwise::identity),
    op("If", 1, control::if_else),
    op("InstanceNormalization", 6, norm::instance_norm),
    op("IsInf", 10, activation::is_inf),
    op("IsNaN", 9, |c| elementwise::unary(c, UnaryFn::IsNan)),
    op("LRN", 1, norm::local_response_norm),
    op("LSTM", 7, |c| rnn::recurrent(c, Cell::Lstm)),
    op("LayerNormalization", 17, norm::layer_norm),
    op("LeakyRelu", 6, elementwise::leaky_relu),
    op("Less", 7, |c| logic::compare(c, Cmp::Lt)),
    op("LessOrEqual", 12, |c| logic::compare(c, Cmp::Le)),
    op("LinearAttention", 27, recurrent::linear_attention),
    op("Log", 6, |c| elementwise::unary(c, UnaryFn::Log)),
    op("LogSoftmax", 1, norm::log_softmax),
    op("Loop", 1, control::loop_op),
    op("LpNormalization", 1, pool::lp_normalization),
    op("LpPool", 2, pool::lp_pool),
    op("MatMul", 1, product::matmul),
    op("MatMulInteger", 10, quantize::matmul_integer),
    op("Max", 8, |c| elementwise::variadic(c, BinaryFn::Max)),
    op("MaxPool", 1, pool::max_pool),
    op("MaxUnpool", 9, rearrange::max_unpool),
    op("Mean", 8, elementwise::mean),
    op("MeanVarianceNormalization", 9, norm::mean_variance_norm),
    op("MelWeightMatrix", 17, generate::mel_weight_matrix),
    op("Min", 8, |c| elementwise::variadic(c, BinaryFn::Min)),
    op("Mish", 18, elementwise::mish),
    op("Mod", 10, elementwise::modulo),
    op("Mul", 7, |c| elementwise::arithmetic(c, BinaryFn::Mul)),
    op("Neg", 6, |c| elementwise::unary(c, UnaryFn::Neg)),
    op("NegativeLogLikelihoodLoss", 12, loss::negative_log_likelihood),
    op("NonZero", 9, generate::non_zero),
    op("Not", 1, logic::not),
    op("OneHot", 9, generate::one_hot),
    op("Optional", 15, sequence::optional),
    op("OptionalGetElement", 15, sequence::get_element),
    op("OptionalHasElement", 15, sequence::has_element),
    op("Or", 7, |c| logic::connective(c, BinaryFn::Or)),
    op("PRelu", 9, elementwise::p_relu),
    op("Pad", 2, pad::pad),
    op("Pow", 7, elementwise::pow),
    op("QLinearConv", 10, quantize::qlinear_conv),
    op("QLinearMatMul", 10, quantize::qlinear_matmul),
    op("QuantizeLinear", 10, quantize::quantize_linear),
    op("RMSNormalization", 23, norm::rms_norm),
    op("RNN", 7, |c| rnn::recurrent(c, Cell::Rnn)),
    op("Range", 11, sources::range),
    op("Reciprocal", 6, |c| elementwise::unary(c, UnaryFn::Reciprocal)),
    op("ReduceL1", 1, reduce::l1),
    op("ReduceL2", 1, reduce::l2),
    op("ReduceLogSum", 1, reduce::log_sum),
    op("ReduceLogSumExp", 1, reduce::log_sum_exp),
    op("ReduceMax", 1, |c| reduce::reduce(c, ReduceFn::Max, 18)),
    op("ReduceMean", 1, |c| reduce::reduce(c, ReduceFn::Mean, 18)),
    op("ReduceMin", 1, |c| reduce::reduce(c, ReduceFn::Min, 18)),
    op("ReduceProd", 1, |c| reduce::reduce(c, ReduceFn::Prod, 18)),
    op("ReduceSum", 1, |c| reduce::reduce(c, ReduceFn::Sum, 13)),
    op("ReduceSumSquare", 1, reduce::sum_square),
    op("Relu", 6, |c| elementwise::unary(c, UnaryFn::Relu)),
    op("Reshape", 5, layout::reshape),
    op("Resize", 10, resize::resize),
    op("ReverseSequence", 10, rearrange::reverse_sequence),
    op("RoiAlign", 10, align::roi_align),
    op("RotaryEmbedding", 23, attention::rotary_embedding),
    op("Round", 11, |c| elementwise::unary(c, UnaryFn::Round)),
    op("STFT", 17, fourier::stft),
    old("Scan", 8, 8, control::scan_batched),
    op("Scan", 9, control::scan),
    old("Scatter", 9, 10, scatter::scatter_elements),
    op("ScatterElements", 11, scatter::scatter_elements),
    op("ScatterND", 11, scatter::scatter_nd),
    op("Selu", 6, activation::selu),
    op("SequenceAt", 11, sequence::at),
    op("SequenceConstruct", 11, sequence::construct),
    op("SequenceEmpty", 11, sequence::construct),
    op("SequenceErase", 11, sequence::erase),
    op("SequenceInsert", 11, sequence::insert),
    op("SequenceLength", 11, sequence::length),
    op("SequenceMap", 17, sequence::map),
    op("Shape", 1, sources::shape),
    op("Shrink", 9, activation::shrink),
    op("Sigmoid", 6, |c| elementwise::unary(c, UnaryFn::Sigmoid)),
    op("Sign", 9, |c| elementwise::unary(c, UnaryFn::Sign)),
    op("SimplifiedLayerNormalization", 1, norm::rms_norm),
    op("Sin", 7, |c| elementwise::unary(c, UnaryFn::Sin)),
    op("Sinh", 9, trig::sinh),
    op("Size", 1, sources::size),
    op("Slice", 1, layout::slice),
    op("Softmax", 1, norm::softmax),
    op("SoftmaxCrossEntropyLoss", 12, loss::softmax_cross_entropy),
    op("Softplus", 1, |c| elementwise::unary(c, UnaryFn::Softplus)),
    op("Softsign", 1, elementwise::softsign),
    op("SpaceToDepth", 1, rearrange::space_to_depth),
    op("Split", 2, split::split),
    op("SplitToSequence", 11, sequence::split),
    op("Sqrt", 6, |c| elementwise::unary(c, UnaryFn::Sqrt)),
    op("Squeeze", 1, layout::squeeze),
    op("Sub", 7, |c| elementwise::arithmetic(c, BinaryFn::Sub)),
    op("Sum", 8, |c| elementwise::variadic(c, BinaryFn::Add)),
    op("SwiGLU", 28, elementwise::swiglu),
    op("Swish", 24, elementwise::swish),
    op("Tan", 7, trig::tan),
    op("Tanh", 6, |c| elementwise::unary(c, UnaryFn::Tanh)),
    op("TensorScatter", 24, rearrange::tensor_scatter),
    op("TfIdfVectorizer", 9, ngrams::tf_idf),
    op("ThresholdedRelu", 10, activation::thresholded_relu),
    op("Tile", 6, layout::tile),
    op("TopK", 1, scatter::top_k),
    op("Transpose", 1, layout::transpose),
    op("Trilu", 14, layout::trilu),
    op("Unsqueeze", 1, layout::unsqueeze),
    op("Upsample", 7, resize::upsample),
    op("Where", 9, logic::where_op),
    op("Xor", 7, |c| logic::connective(c, BinaryFn::Xor)),
    vendor("BiasGelu", microsoft::bias_gelu),
    vendor("CausalConvWithState", recurrent::causal_conv_with_state),
    vendor("ComplexMul", |c| fourier::complex_mul(c, false)),
    vendor("ComplexMulConj", |c| fourier::complex_mul(c, true)),
    vendor("FastGelu", microsoft::fast_gelu),
    vendor("FusedConv", microsoft::fused_conv),
    vendor("FusedGemm", microsoft::fused_gemm),
    vendor("FusedMatMul", microsoft::fused_matmul),
    vendor("GatedDeltaNet", packed::gated_delta_net),
    vendor("GatedRMSNorm", gated::gated_rms_norm),
    vendor("Gelu", microsoft::bias_gelu),
    vendor("Irfft", fourier::irfft),
    vendor("LinearAttention", recurrent::linear_attention),
    vendor("LinearAttentionGate", gated::linear_attention_gate),
    vendor("MatMulNBits", microsoft::matmul_n_bits),
    vendor("QuickGelu", microsoft::quick_gelu),
    vendor("Rfft", fourier::rfft),
    vendor("SkipLayerNormalization", |c| microsoft::skip_norm(c, false)),
    vendor("SkipSimplifiedLayerNormalization", |c| microsoft::skip_norm(c, true)),
    vendor("TransposeMatMul", microsoft::fused_matmul),
    vendor("VarlenCausalConvWithState", packed::varlen_causal_conv),
];

/// Operators, or all of a domain, and why they cannot be imported.
static REFUSED: &[(&str, &str, &str)] = &[
    ("", "Bernoulli", "it draws random numbers"),
    ("", "ImageDecoder", "image files are not decoded"),
    ("", "MaxRoiPool", "the extents that it takes maxima over depend on data"),
    ("", "Multinomial", "it draws random numbers"),
    ("", "NonMaxSuppression", "how many boxes are left depends on data"),
    ("", "RandomNormal", "it draws random numbers"),
    ("", "RandomNormalLike", "it draws random numbers"),
    ("", "RandomUniform", "it draws random numbers"),
    ("", "RandomUniformLike", "it draws random numbers"),
    ("", "RegexFullMatch", "there are no strings"),
    ("", "StringConcat", "there are no strings"),
    ("", "StringNormalizer", "there are no strings"),
    ("", "StringSplit", "there are no strings"),
    ("", "Unique", "how many different elements there are depends on data"),
    ("ai.onnx.ml", "", "trees, vector machines and their like are out of scope"),
    ("ai.onnx.preview", "", "it is not final"),
    ("ai.onnx.preview.training", "", "training is out of scope"),
    ("ai.onnx.training", "", "training is out of scope"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_imported() {
        for (domain, name, _) in REFUSED {
            assert!(!OPS.iter().any(|op| op.domain == *domain && op.name == *name), "{domain} {name}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_ranges_do_not_overlap() {
        for pair in OPS.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            let ordered = (a.domain, a.name) < (b.domain, b.name);
            assert!(ordered || (a.name == b.name && a.until < b.since), "{} before {}", a.name, b.name);
        }
    }
}
