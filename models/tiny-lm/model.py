"""The Mamba-1 language model of tiny-lm, in PyTorch, with the tensor names of Hugging Face's `mamba`."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scan import selective_scan


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 9
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    layer_norm_epsilon: float = 1e-5
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    time_step_floor: float = 1e-4

    @property
    def intermediate_size(self) -> int:
        return self.expand * self.hidden_size

    @property
    def time_step_rank(self) -> int:
        return math.ceil(self.hidden_size / 16)

    def to_hugging_face(self) -> dict:
        """The `config.json` of the exported model."""
        return {
            "architectures": ["MambaForCausalLM"],
            "model_type": "mamba",
            **dataclasses.asdict(self),
            "intermediate_size": self.intermediate_size,
            "time_step_rank": self.time_step_rank,
            "hidden_act": "silu",
            "use_bias": False,
            "use_conv_bias": True,
            "residual_in_fp32": True,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "dtype": "bfloat16",
        }


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Mixer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        inner, states, rank = config.intermediate_size, config.state_size, config.time_step_rank
        self.split = [rank, states, states]
        self.in_proj = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.conv_kernel, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.hidden_size, bias=False)

        # softplus(bias) starts log-uniform between time_step_min and time_step_max
        low, high = math.log(config.time_step_min), math.log(config.time_step_max)
        dt = torch.exp(torch.rand(inner) * (high - low) + low).clamp(min=config.time_step_floor)
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(rank**-0.5), rank**-0.5)
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
            self.out_proj.weight.div_(math.sqrt(config.num_hidden_layers))

    def forward(self, u: Tensor) -> Tensor:
        x, z = self.in_proj(u).chunk(2, -1)
        x = F.silu(self.causal_conv(x.float()))
        dt, b, c = self.x_proj(x).split(self.split, -1)
        dt = F.softplus(F.linear(dt, self.dt_proj.weight).float() + self.dt_proj.bias)
        y = selective_scan(x, dt, -torch.exp(self.A_log), b, c)
        return self.out_proj((y + self.D * x) * F.silu(z.float()))

    def causal_conv(self, x: Tensor) -> Tensor:
        """The depthwise convolution over time, as shifted products."""
        taps, length = self.conv1d.kernel_size[0], x.shape[1]
        padded = F.pad(x, (0, 0, taps - 1, 0))
        shifted = (padded[:, k : k + length] * self.conv1d.weight[:, 0, k] for k in range(taps))
        return sum(shifted, self.conv1d.bias)


class Block(nn.Module):
    def __init__(self, config: Config, dropout: float):
        super().__init__()
        self.norm = RmsNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = Mixer(config)
        self.dropout = dropout

    def forward(self, residual: Tensor) -> Tensor:
        return residual + F.dropout(self.mixer(self.norm(residual)).float(), self.dropout, self.training)


class Backbone(nn.Module):
    def __init__(self, config: Config, dropout: float):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(Block(config, dropout) for _ in range(config.num_hidden_layers))
        self.norm_f = RmsNorm(config.hidden_size, config.layer_norm_epsilon)


class LanguageModel(nn.Module):
    """Mean cross entropy of `targets` given `ids`, both `(batch, length)`; the head is the embedding."""

    def __init__(self, config: Config, dropout: float = 0.0):
        super().__init__()
        self.backbone = Backbone(config, dropout)
        self.dropout = dropout

    def compile_parts(self):
        """Compiles a block (one program for all layers) and the head."""
        for layer in self.backbone.layers:
            layer.compile(dynamic=False)
        self.head_loss = torch.compile(self.head_loss, dynamic=False)

    def head_loss(self, x: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(self.backbone.norm_f(x), self.backbone.embeddings.weight).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = F.dropout(self.backbone.embeddings(ids), self.dropout, self.training)
        for layer in self.backbone.layers:
            x = layer(x)
        return self.head_loss(x, targets)
