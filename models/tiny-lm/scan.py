"""The selective scan with its gradient, as Triton kernels.

    h_t[e,n] = exp(dt_t[e] A[e,n]) h_{t-1}[e,n] + dt_t[e] B_t[n] x_t[e],   h_{-1} = 0
    y_t[e]   = sum_n C_t[n] h_t[e,n]

`x`, `dt` are `(batch, length, E)`, `A` is `(E, N)`, `B`, `C` are `(batch, length, N)`; all are
contiguous f32. One program walks the sequence for a block of channels with the N states in
registers. The forward pass stores every state, so the backward pass walks back without
recomputing. `selective_scan_loop` is the same function as a plain loop, for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 32  # channels per program
WARPS = 1


@triton.jit
def forward_kernel(x_ptr, dt_ptr, a_ptr, b_ptr, c_ptr, y_ptr, h_ptr, length, E, N: tl.constexpr, BLOCK: tl.constexpr):
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, N)
    a = tl.load(a_ptr + e[:, None] * N + n[None, :])
    row = tl.program_id(0).to(tl.int64) * length
    h = tl.zeros([BLOCK, N], tl.float32)
    x = tl.load(x_ptr + row * E + e)
    dt = tl.load(dt_ptr + row * E + e)
    b = tl.load(b_ptr + row * N + n)
    c = tl.load(c_ptr + row * N + n)
    for t in range(length):
        # the next step's operands are fetched while this one computes
        following = tl.minimum(t + 1, length - 1)
        x_next = tl.load(x_ptr + (row + following) * E + e)
        dt_next = tl.load(dt_ptr + (row + following) * E + e)
        b_next = tl.load(b_ptr + (row + following) * N + n)
        c_next = tl.load(c_ptr + (row + following) * N + n)
        h = tl.exp(dt[:, None] * a) * h + (dt * x)[:, None] * b[None, :]
        tl.store(h_ptr + ((row + t) * E + e[:, None]) * N + n[None, :], h)
        tl.store(y_ptr + (row + t) * E + e, tl.sum(h * c[None, :], axis=1))
        x, dt, b, c = x_next, dt_next, b_next, c_next


@triton.jit
def backward_kernel(
    x_ptr, dt_ptr, a_ptr, b_ptr, c_ptr, h_ptr, dy_ptr, dx_ptr, ddt_ptr, da_ptr, db_ptr, dc_ptr,
    length, E, N: tl.constexpr, BLOCK: tl.constexpr,
):
    blocks = tl.num_programs(1)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, N)
    a = tl.load(a_ptr + e[:, None] * N + n[None, :])
    row = tl.program_id(0).to(tl.int64) * length
    da = tl.zeros([BLOCK, N], tl.float32)
    carry = tl.zeros([BLOCK, N], tl.float32)  # dL/dh_t that arrives from step t + 1
    last = row + length - 1
    h = tl.load(h_ptr + (last * E + e[:, None]) * N + n[None, :])
    x = tl.load(x_ptr + last * E + e)
    dt = tl.load(dt_ptr + last * E + e)
    dy = tl.load(dy_ptr + last * E + e)
    b = tl.load(b_ptr + last * N + n)
    c = tl.load(c_ptr + last * N + n)
    for back in range(length):
        t = length - 1 - back
        before = row + tl.maximum(t - 1, 0)
        h_before = tl.load(h_ptr + (before * E + e[:, None]) * N + n[None, :])
        h_before = tl.where(t > 0, h_before, 0.0)
        x_next = tl.load(x_ptr + before * E + e)
        dt_next = tl.load(dt_ptr + before * E + e)
        dy_next = tl.load(dy_ptr + before * E + e)
        b_next = tl.load(b_ptr + before * N + n)
        c_next = tl.load(c_ptr + before * N + n)

        decay = tl.exp(dt[:, None] * a)
        dh = carry + dy[:, None] * c[None, :]
        carry = dh * decay
        decayed = carry * h_before  # dL/d(dt A)
        da += decayed * dt[:, None]
        weighted = tl.sum(dh * b[None, :], axis=1)
        tl.store(dx_ptr + (row + t) * E + e, weighted * dt)
        tl.store(ddt_ptr + (row + t) * E + e, weighted * x + tl.sum(decayed * a, axis=1))
        # B and C are shared by all channels: one partial sum per block of channels
        part = ((row + t) * blocks + tl.program_id(1)) * N + n
        tl.store(db_ptr + part, tl.sum(dh * (dt * x)[:, None], axis=0))
        tl.store(dc_ptr + part, tl.sum(dy[:, None] * h, axis=0))
        h, x, dt, dy, b, c = h_before, x_next, dt_next, dy_next, b_next, c_next
    tl.store(da_ptr + (tl.program_id(0) * E + e[:, None]) * N + n[None, :], da)


@torch.library.custom_op("tiny_lm::scan", mutates_args=())
def scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, channels = x.shape
    states = a.shape[1]
    y = torch.empty_like(x)
    h = x.new_empty(batch, length, channels, states)
    grid = (batch, channels // CHANNELS)
    forward_kernel[grid](x, dt, a, b, c, y, h, length, channels, states, CHANNELS, num_warps=WARPS)
    return y, h


@scan.register_fake
def _(x, dt, a, b, c):
    return torch.empty_like(x), x.new_empty(*x.shape, a.shape[1])


@torch.library.custom_op("tiny_lm::scan_backward", mutates_args=())
def scan_backward(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, length, channels = x.shape
    states = a.shape[1]
    blocks = channels // CHANNELS
    dx, ddt = torch.empty_like(x), torch.empty_like(dt)
    da = x.new_empty(batch, channels, states)
    db, dc = x.new_empty(2, batch, length, blocks, states)
    backward_kernel[(batch, blocks)](
        x, dt, a, b, c, h, dy, dx, ddt, da, db, dc, length, channels, states, CHANNELS, num_warps=WARPS
    )
    return dx, ddt, da.sum(0), db.sum(2), dc.sum(2)


@scan_backward.register_fake
def _(x, dt, a, b, c, h, dy):
    return tuple(torch.empty_like(t) for t in (x, dt, a, b, c))


def _setup_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)  # the states have no gradient of their own
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx, dy, _dh):
    return scan_backward(*ctx.saved_tensors, dy.contiguous())


scan.register_autograd(_backward, setup_context=_setup_context)


def selective_scan(x, dt, a, b, c):
    """The scan by the kernels, in f32; differentiable in all arguments."""
    return scan(*(t.float().contiguous() for t in (x, dt, a, b, c)))[0]


def selective_scan_loop(x, dt, a, b, c):
    """The scan as a loop over the sequence, in the type of its arguments."""
    h = x.new_zeros(x.shape[0], *a.shape)
    steps = []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * a) * h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
        steps.append((h * c[:, t, None]).sum(-1))
    return torch.stack(steps, 1)


def check(device):
    """Compares values and gradients of the kernels with the loop in f64."""
    generator = torch.Generator().manual_seed(1)
    batch, length, channels, states = 2, 19, 64, 16
    shapes = [(batch, length, channels)] * 2 + [(channels, states)] + [(batch, length, states)] * 2
    args = [torch.randn(s, generator=generator) for s in shapes]
    args[1] = torch.nn.functional.softplus(args[1])
    args[2] = -torch.exp(args[2])
    dy = torch.randn(shapes[0], generator=generator)

    def values(function, dtype):
        leaves = [a.to(device, dtype).requires_grad_() for a in args]
        y = function(*leaves)
        return [y, *torch.autograd.grad(y, leaves, dy.to(device, dtype))]

    found, expected = values(selective_scan, torch.float32), values(selective_scan_loop, torch.float64)
    for name, f, e in zip(("y", "dx", "ddt", "dA", "dB", "dC"), found, expected):
        error = ((f.double() - e).norm() / e.norm()).item()
        print(f"scan check {name}: relative error {error:.1e}")
        if not error < 1e-5:
            raise SystemExit(f"scan check: {name} is wrong")


if __name__ == "__main__":
    check("cuda" if torch.cuda.is_available() else "cpu")
