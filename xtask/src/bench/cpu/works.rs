//! What is measured, with what it must reach.

/// Another program that does the same work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    LlamaCpp,
    OnnxRuntime,
    /// The operator of ggml alone.
    Ggml,
    /// numpy's product, which is that of OpenBLAS.
    Numpy,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llama.cpp",
            Self::OnnxRuntime => "onnxruntime",
            Self::Ggml => "ggml",
            Self::Numpy => "numpy",
        }
    }
}

/// A bound that the row must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Must {
    /// So many times as fast as a peer.
    Peer(Peer, f64),
    /// This share of what the machine allows.
    Limit(f64),
    /// At most so much, in the row's unit.
    AtMost(f64),
}

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tokens per second of a prefill of 512 tokens.
    Prefill,
    /// Tokens per second of single steps.
    Step,
    /// Milliseconds of a selective scan alone.
    Scan,
    /// GFLOP/s of a product alone.
    Product,
    /// Milliseconds until a session is ready.
    Load,
    /// Megabytes of a prefill of 2048 tokens beyond the weights.
    Memory,
    /// Percent by which a token of a long prefill takes longer than one of a short one, or less.
    Growth,
    /// Percent by which two jobs at once decode slower with all threads each than with one thread each.
    Together,
}

impl Kind {
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Prefill | Self::Step => "tokens/s",
            Self::Scan | Self::Load => "ms",
            Self::Product => "GFLOP/s",
            Self::Memory => "MB",
            Self::Growth | Self::Together => "%",
        }
    }

    /// Whether more is better.
    pub(super) fn is_rate(self) -> bool {
        matches!(self, Self::Prefill | Self::Step | Self::Product)
    }
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) shape: &'static str,
    pub(super) format: &'static str,
    pub(super) peers: &'static [Peer],
    pub(super) musts: &'static [Must],
}

impl Work {
    /// Whether one measurement, with most threads, is enough.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.kind, Kind::Memory | Kind::Growth | Kind::Together)
    }
}

const fn work(
    name: &'static str,
    kind: Kind,
    (shape, format): (&'static str, &'static str),
    peers: &'static [Peer],
    musts: &'static [Must],
) -> Work {
    Work { name, kind, shape, format, peers, musts }
}

/// Percent by which one measurement differs from another of the same.
const NOISE: f64 = 5.0;

/// Every row, in the order of the table.
pub(super) static WORKS: [Work; 15] = {
    use Kind::{Growth, Load, Memory, Prefill, Product, Scan, Step, Together};
    use Must::{AtMost, Limit};
    use Peer::{Ggml, LlamaCpp, Numpy, OnnxRuntime};
    const MAMBA: &str = "mamba-130m";
    const MAMBA2: &str = "mamba2-130m";
    [
        work(
            "scan alone, L2048 D1536 N16 f32",
            Scan,
            ("", "f32"),
            &[Ggml],
            &[Must::Peer(Ggml, 10.0), Limit(0.5)],
        ),
        work(
            "mamba-130m prefill 512, f32",
            Prefill,
            (MAMBA, "f32"),
            &[LlamaCpp, OnnxRuntime],
            &[Must::Peer(LlamaCpp, 4.0), Must::Peer(OnnxRuntime, 2.5)],
        ),
        work(
            "mamba-130m prefill 512, bf16",
            Prefill,
            (MAMBA, "bf16"),
            &[LlamaCpp],
            &[Must::Peer(LlamaCpp, 5.0)],
        ),
        work(
            "mamba-130m prefill 512, int8",
            Prefill,
            (MAMBA, "int8"),
            &[LlamaCpp],
            &[Must::Peer(LlamaCpp, 6.0)],
        ),
        work("mamba-130m decode, f32", Step, (MAMBA, "f32"), &[LlamaCpp, OnnxRuntime], &[Limit(0.85)]),
        work("mamba-130m decode, bf16", Step, (MAMBA, "bf16"), &[LlamaCpp], &[Limit(0.85)]),
        work("mamba-130m decode, int8", Step, (MAMBA, "int8"), &[LlamaCpp], &[Limit(0.8)]),
        work("mamba-130m decode, int4", Step, (MAMBA, "int4"), &[LlamaCpp], &[Limit(0.65)]),
        work(
            "mamba2-130m prefill 512, bf16",
            Prefill,
            (MAMBA2, "bf16"),
            &[LlamaCpp],
            &[Must::Peer(LlamaCpp, 2.0)],
        ),
        work("mamba2-130m decode, int4", Step, (MAMBA2, "int4"), &[LlamaCpp], &[Must::Peer(LlamaCpp, 2.0)]),
        work("matmul 2048, f32", Product, ("", "f32"), &[Numpy], &[Limit(0.9)]),
        work("session load, mamba-130m bf16", Load, (MAMBA, "bf16"), &[], &[AtMost(20.0)]),
        work("memory over weights, prefill 2048, f32", Memory, (MAMBA, "f32"), &[], &[AtMost(150.0)]),
        work("growth, prefill 512 to 131072, bf16", Growth, (MAMBA, "bf16"), &[], &[AtMost(10.0)]),
        work(
            "two jobs at once, decode, int8, threads over one",
            Together,
            (MAMBA, "int8"),
            &[],
            &[AtMost(NOISE)],
        ),
    ]
};
