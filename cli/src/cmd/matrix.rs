//! The rate of a large product on the GPU in use, as a limit for what is measured beside it.

use crate::failure::{Failure, Kind, Outcome};
use ssmc::Rng;
use ssmc_codegen::assemble::{ArtifactInput, Kernels, ProgramInput, write};
use ssmc_codegen::target::{GpuArch, GpuTarget, Target};
use ssmc_ir::{Weights, parse};
use ssmc_passes::partition::partition;
use ssmc_runtime::{Artifact, DType, Session, SessionOptions, Tensor};

/// Rows, columns and depth.
const SIZES: [usize; 3] = [8192, 8192, 4096];

/// Runs of which the median counts.
const RUNS: usize = 5;

/// Operations per second of a product in `bf16`, by our own kernels for the architecture of this name.
pub(crate) fn rate(arch: &str) -> Outcome<f64> {
    let arch = GpuArch::ALL.into_iter().find(|known| known.name() == arch);
    let arch = arch.ok_or_else(|| internal("the session's level is no GPU that is known"))?;
    let [m, n, k] = SIZES;
    let text = format!(
        "func @product(%x: bf16[{m}, {k}], %w: bf16[{n}, {k}]) {{\n  \
         %y = contract[mk,nk->mn] %x, %w : bf16[{m}, {n}]\n  return %y \"y\"\n}}"
    );
    let graph = parse(&text).map_err(|faults| internal(&format!("{faults:?}")))?;
    let plan = partition(&graph).map_err(|error| internal(&error.to_string()))?;
    let weights = Weights::new();
    let program =
        ProgramInput { name: "product", plan: &plan, gpu_plan: None, weights: &weights, states: &[] };
    let kernels = Kernels::lower(&[program], &[Target::Gpu(GpuTarget::of_arch(arch))]);
    let kernels = kernels.map_err(ssmc::Error::from)?;
    let dir = tempfile::tempdir().map_err(|error| Failure::file(&std::env::temp_dir(), error))?;
    let path = dir.path().join("product.ssmc");
    write(&path, &kernels, ArtifactInput::default(), &mut |_, _, _| {}).map_err(ssmc::Error::from)?;
    let mut session = Session::new(&Artifact::open(&path)?, &SessionOptions::default())?;
    let mut rng = Rng::new(1);
    let [x, w] = [m, n].map(|rows| halves(&mut rng, [rows, k]));
    let (x, w) = (x?, w?);
    let profile = session.measure("product", None, &[("x", x.view()), ("w", w.view())], RUNS)?;
    let seconds: f64 = profile.iter().map(|launch| launch.time.as_secs_f64()).sum();
    Ok(2.0 * SIZES.map(|n| n as f64).iter().product::<f64>() / seconds)
}

/// Noise: products of zeros are faster than those of anything else.
fn halves(rng: &mut Rng, dims: [usize; 2]) -> Outcome<Tensor> {
    // Rows of a period that no row has are all different.
    let period: Vec<[u8; 2]> = (0..100_003)
        .map(|_| {
            let bits = ((2.0 * rng.unit() - 1.0) as f32).to_bits().to_le_bytes();
            [bits[2], bits[3]]
        })
        .collect();
    let bytes: Vec<u8> = period.iter().cycle().take(dims[0] * dims[1]).flatten().copied().collect();
    Tensor::from_bytes(DType::Bf16, &dims, &bytes).map_err(|error| internal(&error.to_string()))
}

fn internal(message: &str) -> Failure {
    Failure::new(Kind::Internal, format!("measuring a product: {message}"))
}
