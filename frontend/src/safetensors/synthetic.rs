//! Model folders with random weights, for benchmarks and tests.
//!
//! The folders are what `transformers` would write for an untrained model of the same shape: the same files, names,
//! element types and initial distributions, but for D, which is near one instead of one: factors of one leave the graph,
//! and those of trained models do not. The same description gives the same weights, up to the rounding of the
//! machine's own logarithm and cosine.

use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::f64::consts::TAU;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Which mixer a synthetic model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixer {
    /// Mamba-1: `d_inner` channels, each with its own state of `d_state`.
    Mamba {
        /// Width of the low-rank step size.
        dt_rank: usize,
    },
    /// Mamba-1 with weightless RMS normalisation of dt, b and c.
    FalconMamba {
        /// Width of the low-rank step size.
        dt_rank: usize,
    },
    /// Mamba-2: heads of `head_dim` channels, whose b and c are shared by group.
    Mamba2 {
        /// Channels of a head.
        head_dim: usize,
        /// Number of groups.
        n_groups: usize,
        /// Chunk length that the config suggests.
        chunk_size: usize,
    },
}

/// The element type of the stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Storage {
    F32,
    F16,
    BF16,
}

impl Storage {
    fn names(self) -> (&'static str, &'static str, usize) {
        match self {
            Self::F32 => ("F32", "float32", 4),
            Self::F16 => ("F16", "float16", 2),
            Self::BF16 => ("BF16", "bfloat16", 2),
        }
    }

    fn write(self, x: f64, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::F32 => out.write_all(&(x as f32).to_le_bytes()),
            Self::F16 => out.write_all(&f16::from_f64(x).to_le_bytes()),
            Self::BF16 => out.write_all(&bf16::from_f64(x).to_le_bytes()),
        }
    }
}

/// A model of random weights. All sizes must be positive, and for Mamba-2 `d_inner` must be a multiple of `head_dim`
/// and the number of heads a multiple of `n_groups`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticModel {
    /// The mixer of every layer.
    pub mixer: Mixer,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Inner width of the mixer.
    pub d_inner: usize,
    /// State size.
    pub d_state: usize,
    /// Width of the causal convolution.
    pub d_conv: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Element type of the weights.
    pub storage: Storage,
    /// Seed of the weights.
    pub seed: u64,
}

impl SyntheticModel {
    /// The shape of `state-spaces/mamba-130m-hf`.
    pub fn mamba_130m(storage: Storage) -> Self {
        Self {
            mixer: Mixer::Mamba { dt_rank: 48 },
            d_model: 768,
            d_inner: 1536,
            d_state: 16,
            d_conv: 4,
            n_layers: 24,
            vocab_size: 50280,
            tied: true,
            storage,
            seed: 130,
        }
    }

    /// The shape of `state-spaces/mamba-2.8b-hf`.
    pub fn mamba_2_8b(storage: Storage) -> Self {
        Self {
            mixer: Mixer::Mamba { dt_rank: 160 },
            d_model: 2560,
            d_inner: 5120,
            n_layers: 64,
            ..Self::mamba_130m(storage)
        }
    }

    /// The shape of `state-spaces/mamba2-2.7b`.
    pub fn mamba2_2_7b(storage: Storage) -> Self {
        Self { d_model: 2560, d_inner: 5120, n_layers: 64, ..Self::mamba2_130m(storage) }
    }

    /// The shape of `state-spaces/mamba2-130m`.
    pub fn mamba2_130m(storage: Storage) -> Self {
        Self {
            mixer: Mixer::Mamba2 { head_dim: 64, n_groups: 1, chunk_size: 256 },
            d_state: 128,
            vocab_size: 50288,
            ..Self::mamba_130m(storage)
        }
    }

    /// Writes `config.json` and `model.safetensors` into the folder, which is created if need be.
    ///
    /// # Errors
    /// The folder or a file cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let config = serde_json::to_vec_pretty(&self.config())?;
        replace(&dir.join("config.json"), |out| out.write_all(&config))?;
        replace(&dir.join("model.safetensors"), |out| self.write_weights(out))
    }

    fn config(&self) -> Value {
        let (_, torch_dtype, _) = self.storage.names();
        let (model_type, class) = match self.mixer {
            Mixer::Mamba { .. } => ("mamba", "MambaForCausalLM"),
            Mixer::FalconMamba { .. } => ("falcon_mamba", "FalconMambaForCausalLM"),
            Mixer::Mamba2 { .. } => ("mamba2", "Mamba2ForCausalLM"),
        };
        let mut config = json!({
            "architectures": [class],
            "bos_token_id": 0,
            "conv_kernel": self.d_conv,
            "dtype": torch_dtype,
            "eos_token_id": 0,
            "expand": self.d_inner as f64 / self.d_model as f64,
            "hidden_act": "silu",
            "hidden_size": self.d_model,
            "layer_norm_epsilon": 1e-5,
            "model_type": model_type,
            "num_hidden_layers": self.n_layers,
            "residual_in_fp32": true,
            "state_size": self.d_state,
            "tie_word_embeddings": self.tied,
            "use_bias": false,
            "use_conv_bias": true,
            "vocab_size": self.vocab_size,
        });
        let own = match self.mixer {
            Mixer::Mamba { dt_rank } => {
                json!({ "intermediate_size": self.d_inner, "time_step_rank": dt_rank })
            }
            Mixer::FalconMamba { dt_rank } => {
                json!({ "intermediate_size": self.d_inner, "time_step_rank": dt_rank, "mixer_rms_eps": 1e-6 })
            }
            Mixer::Mamba2 { head_dim, n_groups, chunk_size } => json!({
                "chunk_size": chunk_size,
                "head_dim": head_dim,
                "n_groups": n_groups,
                "num_heads": self.d_inner / head_dim,
                "time_step_limit": [0.0, { "__float__": "Infinity" }],
            }),
        };
        if let (Value::Object(config), Value::Object(own)) = (&mut config, own) {
            config.extend(own);
        }
        config
    }

    fn tensors(&self) -> Vec<Tensor> {
        let Self { d_model, d_inner, d_state, d_conv, .. } = *self;
        let mut all = vec![
            tensor("backbone.embeddings.weight", [self.vocab_size, d_model], Init::Normal(0.02)),
            tensor("backbone.norm_f.weight", [d_model], Init::Ones),
        ];
        if !self.tied {
            all.push(tensor("lm_head.weight", [self.vocab_size, d_model], Init::Normal(0.02)));
        }
        for layer in 0..self.n_layers {
            let norm = format!("backbone.layers.{layer}.norm.weight");
            all.push(tensor(norm, [d_model], Init::Ones));
            let mut add = |name: &str, shape: &[usize], init: Init| {
                all.push(tensor(format!("backbone.layers.{layer}.mixer.{name}"), shape.to_vec(), init));
            };
            let fan = |n: usize| Init::Uniform(1.0 / (n as f64).sqrt());
            let out = Init::Uniform(1.0 / (d_inner as f64 * self.n_layers as f64).sqrt());
            add("out_proj.weight", &[d_model, d_inner], out);
            let n_channels = match self.mixer {
                Mixer::Mamba { dt_rank } | Mixer::FalconMamba { dt_rank } => {
                    add("A_log", &[d_inner, d_state], Init::LogLadder);
                    add("D", &[d_inner], Init::NearOne);
                    add("dt_proj.bias", &[d_inner], Init::StepBias);
                    add("dt_proj.weight", &[d_inner, dt_rank], fan(dt_rank));
                    add("in_proj.weight", &[2 * d_inner, d_model], fan(d_model));
                    add("x_proj.weight", &[dt_rank + 2 * d_state, d_inner], fan(d_inner));
                    d_inner
                }
                Mixer::Mamba2 { head_dim, n_groups, .. } => {
                    let n_heads = d_inner / head_dim;
                    let n_channels = d_inner + 2 * n_groups * d_state;
                    add("A_log", &[n_heads], Init::LogUniform(1.0, 16.0));
                    add("D", &[n_heads], Init::NearOne);
                    add("dt_bias", &[n_heads], Init::StepBias);
                    add("in_proj.weight", &[d_inner + n_channels + n_heads, d_model], fan(d_model));
                    add("norm.weight", &[d_inner], Init::Ones);
                    n_channels
                }
            };
            add("conv1d.bias", &[n_channels], fan(d_conv));
            add("conv1d.weight", &[n_channels, 1, d_conv], fan(d_conv));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The file's header, without its length in front.
    fn header(&self, tensors: &[Tensor]) -> io::Result<Vec<u8>> {
        let (dtype, _, width) = self.storage.names();
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut end = 0;
        for tensor in tensors {
            let begin = end;
            end += tensor.n_elems() * width;
            let entry = json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, end] });
            header.insert(tensor.name.clone(), entry);
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }

    /// Where the weights lie in `model.safetensors`.
    pub(super) fn placed(&self) -> io::Result<Vec<Placed>> {
        let tensors = self.tensors();
        let (_, _, width) = self.storage.names();
        let mut begin = 8 + self.header(&tensors)?.len();
        let place = |tensor: Tensor| {
            let len = tensor.n_elems() * width;
            begin += len;
            Placed { name: tensor.name, shape: tensor.shape, begin: begin - len, len }
        };
        Ok(tensors.into_iter().map(place).collect())
    }

    fn write_weights(&self, out: &mut impl Write) -> io::Result<()> {
        let tensors = self.tensors();
        let header = self.header(&tensors)?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        // Each tensor has random numbers of its own, so that threads make several at once.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for (part, some) in tensors.chunks(threads).enumerate() {
            let made: Vec<io::Result<Vec<u8>>> = std::thread::scope(|scope| {
                let make = |(i, tensor): (usize, &'_ Tensor)| {
                    let seed = (part * threads + i) as u64;
                    self.tensor_bytes(tensor, self.seed.wrapping_mul(0x1_0000_0001).wrapping_add(seed))
                };
                let running: Vec<_> =
                    some.iter().enumerate().map(|item| scope.spawn(move || make(item))).collect();
                let died = || io::Error::other("a thread that makes weights died");
                running.into_iter().map(|thread| thread.join().map_err(|_| died())?).collect()
            });
            for bytes in made {
                out.write_all(&bytes?)?;
            }
        }
        Ok(())
    }

    fn tensor_bytes(&self, tensor: &Tensor, seed: u64) -> io::Result<Vec<u8>> {
        let (_, _, width) = self.storage.names();
        let mut bytes = Vec::with_capacity(tensor.n_elems() * width);
        let mut random = Random::new(seed);
        let row = tensor.shape.last().copied().unwrap_or(1);
        for i in 0..tensor.n_elems() {
            self.storage.write(tensor.init.sample(i % row, &mut random), &mut bytes)?;
        }
        Ok(bytes)
    }
}

/// A tensor and its bytes in the file.
pub(super) struct Placed {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) begin: usize,
    pub(super) len: usize,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    init: Init,
}

impl Tensor {
    fn n_elems(&self) -> usize {
        self.shape.iter().product()
    }
}

fn tensor(name: impl Into<String>, shape: impl Into<Vec<usize>>, init: Init) -> Tensor {
    Tensor { name: name.into(), shape: shape.into(), init }
}

#[derive(Clone, Copy)]
enum Init {
    Ones,
    /// Between 0.78 and 1.22, by the column.
    NearOne,
    /// Of mean 0 and this standard deviation.
    Normal(f64),
    /// Between minus and plus this bound.
    Uniform(f64),
    /// The logarithm of a uniform number of this range.
    LogUniform(f64, f64),
    /// `log(1), log(2), ...` along the last axis: the S4D-Real initialisation of `a_log`.
    LogLadder,
    /// The inverse softplus of a step size between 0.001 and 0.1, uniform in its logarithm.
    StepBias,
}

impl Init {
    fn sample(self, column: usize, random: &mut Random) -> f64 {
        match self {
            Self::Ones => 1.0,
            Self::NearOne => 1.0 + ((column % 8) as f64 - 3.5) / 16.0,
            Self::Normal(std) => {
                let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
                std * radius * (TAU * random.unit()).cos()
            }
            Self::Uniform(bound) => bound * (2.0 * random.unit() - 1.0),
            Self::LogUniform(low, high) => (low + (high - low) * random.unit()).ln(),
            Self::LogLadder => ((column + 1) as f64).ln(),
            Self::StepBias => {
                let dt = (1e-3_f64.ln() + (0.1_f64 / 1e-3).ln() * random.unit()).exp().max(1e-4);
                dt + (-(-dt).exp_m1()).ln()
            }
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Writes a file under a temporary name and then gives it its own.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
    let result = write(&mut out).and_then(|()| out.flush());
    drop(out);
    match result {
        Ok(()) => fs::rename(&partial, path),
        Err(e) => {
            // The first failure is what the caller must learn of; a second one adds nothing.
            let _ = fs::remove_file(&partial);
            Err(e)
        }
    }
}
