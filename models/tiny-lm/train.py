"""Trains tiny-lm on one GPU.

Usage: python3 train.py DATA_DIR TOKENIZER_JSON OUT_DIR [--steps N] [--dropout P] ...

DATA_DIR holds `train.txt` and `val.txt` of corpus.py. OUT_DIR receives `config.json` and the
`model.safetensors` of the evaluation with the lowest held-out loss (bf16, `A_log` and `D` f32),
and `training-log.json`, the loss curve. Needs PyTorch with Triton, `tokenizers` and `safetensors`.
"""

import argparse
import json
import math
import pathlib
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import scan
from model import Config, LanguageModel

SEED = 2026
KEPT_IN_F32 = ("A_log", "D")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=pathlib.Path)
    parser.add_argument("tokenizer_json", type=pathlib.Path)
    parser.add_argument("out_dir", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--evaluate-every", type=int, default=200)
    parser.add_argument("--layers", type=int, default=Config.num_hidden_layers)
    parser.add_argument("--hidden", type=int, default=Config.hidden_size)
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def read_tokens(path, tokenizer):
    """The pages of a text as one row of tokens, each page after `<|endoftext|>` (id 0)."""
    ids = []
    for page in tokenizer.encode_batch(path.read_text(encoding="utf-8").split("\f")):
        ids.append(0)
        ids.extend(page.ids)
    return torch.tensor(ids)


def windows(tokens, starts, length):
    """Inputs and targets of the windows that begin at `starts`."""
    rows = tokens[starts[:, None] + torch.arange(length + 1, device=tokens.device)]
    return rows[:, :-1], rows[:, 1:]


def batches(tokens, batch, length, generator):
    """Endless batches: each epoch cuts the row at a new offset and shuffles the pieces."""
    while True:
        shift = torch.randint(length, (), generator=generator)
        count = (len(tokens) - 1 - shift) // length
        starts = shift + length * torch.randperm(count, generator=generator)
        for chunk in starts.split(batch):
            if len(chunk) == batch:
                yield windows(tokens, chunk.to(tokens.device), length)


@torch.no_grad()
def held_out_loss(model, tokens, batch, length):
    """Mean loss over consecutive windows, each from a zero state; the last, incomplete batch is left out."""
    model.eval()
    starts = torch.arange(0, len(tokens) - length, length, device=tokens.device)
    losses = [model(*windows(tokens, s, length)) for s in starts.split(batch) if len(s) == batch]
    model.train()
    return torch.stack(losses).mean().item()


def make_optimizer(model, args):
    """AdamW; norms, biases, `A_log` and `D` are not decayed."""
    named = list(model.named_parameters())
    plain = [p for n, p in named if p.ndim < 2 or n.endswith("A_log")]
    decayed = [p for n, p in named if not (p.ndim < 2 or n.endswith("A_log"))]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95), fused=fused)


def learning_rate(step, args):
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < args.warmup:
        return args.learning_rate * (step + 1) / args.warmup
    progress = (step - args.warmup) / max(1, args.steps - args.warmup)
    return args.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def save(model, config, out_dir):
    tensors = {
        name: p.detach().to(torch.float32 if name.endswith(KEPT_IN_F32) else torch.bfloat16).cpu().contiguous()
        for name, p in model.named_parameters()
    }
    save_file(tensors, out_dir / "model.safetensors", metadata={"format": "pt"})
    (out_dir / "config.json").write_text(json.dumps(config.to_hugging_face(), indent=2) + "\n")


def main():
    args = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out_dir.mkdir(parents=True, exist_ok=True)
    scan.check(device)

    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(args.tokenizer_json))
    train, val = (read_tokens(args.data_dir / f"{n}.txt", tokenizer).to(device) for n in ("train", "val"))
    config = Config(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=args.hidden, num_hidden_layers=args.layers
    )
    model = LanguageModel(config, args.dropout).to(device)
    if not args.no_compile:
        model.compile_parts()
    optimizer = make_optimizer(model, args)
    source = batches(train, args.batch, args.length, torch.Generator().manual_seed(SEED))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(train)} training tokens, {len(val)} held out", flush=True)

    log, best, recent = [], math.inf, []
    begin = mark = time.perf_counter()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(*next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.detach())
        if (step + 1) % args.evaluate_every == 0 or step + 1 == args.steps:
            train_loss = torch.stack(recent).mean().item()
            speed = len(recent) * args.batch * args.length / (time.perf_counter() - mark)
            with torch.autocast(device.type, torch.bfloat16):
                val_loss = held_out_loss(model, val, 20, args.length)
            seconds = time.perf_counter() - begin
            log.append({"step": step + 1, "train": train_loss, "held_out": val_loss, "seconds": seconds})
            print(
                f"step {step + 1}: train {train_loss:.4f}, held out {val_loss:.4f}, "
                f"{speed / 1e3:.0f} k tokens/s, {seconds:.0f} s",
                flush=True,
            )
            if not math.isfinite(val_loss):
                raise SystemExit("the loss is not finite")
            if val_loss < best:
                best = val_loss
                save(model, config, args.out_dir)
            (args.out_dir / "training-log.json").write_text(json.dumps(log, indent=1) + "\n")
            recent, mark = [], time.perf_counter()
    print(f"best held-out loss {best:.4f}")


if __name__ == "__main__":
    main()
