"""Runs the stored tiny-lm in NumPy, in f64, one token at a time: the reference of this model.

Usage:
  python3 check.py write             write reference_logits.npz and reference_greedy.npz
  python3 check.py verify            compare both files with a fresh run; exit 1 on a difference
  python3 check.py evaluate VAL_TXT  held-out loss of the stored weights
  python3 check.py sample [PROMPT]   a continuation at temperature 0.7

Reads `config.json`, `model.safetensors` and `tokenizer.json` beside this file. The recurrence is
written out step by step and shares no code with the training scripts. Needs NumPy and `tokenizers`.
"""

import json
import math
import pathlib
import sys

import numpy as np
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
LOGITS_TEXT = "The open() function returns a file object. If the file cannot be opened, an OSError is raised."
GREEDY_PROMPT = "To create a new table,"
GREEDY_TOKENS = 32
SAMPLE_TOKENS = 200
SAMPLE_TEMPERATURE = 0.7
SAMPLE_SEED = 1
WINDOW = 1024


def read_safetensors(path):
    """All tensors of a file, widened to f64."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(body[begin:end], "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        elif entry["dtype"] == "F32":
            values = np.frombuffer(body[begin:end], "<f4")
        else:
            raise SystemExit(f"{name}: unexpected dtype {entry['dtype']}")
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


class Model:
    def __init__(self):
        config = json.loads((HERE / "config.json").read_text())
        weights = read_safetensors(HERE / "model.safetensors")
        self.eps = config["layer_norm_epsilon"]
        self.states, self.rank = config["state_size"], config["time_step_rank"]
        self.embedding = weights["backbone.embeddings.weight"]
        self.norm_f = weights["backbone.norm_f.weight"]
        self.layers = []
        for i in range(config["num_hidden_layers"]):
            prefix = f"backbone.layers.{i}."
            self.layers.append({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)})

    def zero_state(self, batch):
        """Per layer the last inputs of the convolution and the recurrent state."""
        return [
            [
                np.zeros((batch, layer["mixer.conv1d.weight"].shape[2], layer["mixer.D"].shape[0])),
                np.zeros((batch, *layer["mixer.A_log"].shape)),
            ]
            for layer in self.layers
        ]

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * weight

    def step(self, ids, state):
        """Logits `(batch, vocab)` after one more token per row; `state` is updated."""
        residual = self.embedding[ids]
        for layer, memory in zip(self.layers, state):
            residual = residual + self.mixer(self.norm(residual, layer["norm.weight"]), layer, memory)
        return self.norm(residual, self.norm_f) @ self.embedding.T

    def mixer(self, u, layer, memory):
        x, z = np.split(u @ layer["mixer.in_proj.weight"].T, 2, axis=-1)
        memory[0] = np.concatenate([memory[0][:, 1:], x[:, None]], axis=1)
        x = silu(np.einsum("bke,ek->be", memory[0], layer["mixer.conv1d.weight"][:, 0]) + layer["mixer.conv1d.bias"])
        dt, b, c = np.split(x @ layer["mixer.x_proj.weight"].T, [self.rank, self.rank + self.states], axis=-1)
        dt = softplus(dt @ layer["mixer.dt_proj.weight"].T + layer["mixer.dt_proj.bias"])
        a = -np.exp(layer["mixer.A_log"])
        memory[1] = np.exp(dt[..., None] * a) * memory[1] + (dt * x)[..., None] * b[:, None]
        y = np.einsum("ben,bn->be", memory[1], c) + layer["mixer.D"] * x
        return (y * silu(z)) @ layer["mixer.out_proj.weight"].T


def logits(model, ids):
    """Logits `(batch, length, vocab)` of whole sequences."""
    state = model.zero_state(len(ids))
    return np.stack([model.step(column, state) for column in ids.T], axis=1)


def generate(model, prompt, count, choose):
    """`count` tokens after `prompt`, each picked from its logits by `choose`."""
    state = model.zero_state(1)
    for token in prompt:
        scores = model.step(np.array([token]), state)[0]
    tokens = []
    for _ in range(count):
        tokens.append(int(choose(scores)))
        scores = model.step(np.array(tokens[-1:]), state)[0]
    return tokens


def references(model, tokenizer):
    """The arrays of the two reference files."""
    ids = np.array([[0, *tokenizer.encode(LOGITS_TEXT).ids]])
    prompt = [0, *tokenizer.encode(GREEDY_PROMPT).ids]
    greedy = generate(model, prompt, GREEDY_TOKENS, np.argmax)
    return {
        "reference_logits.npz": {"input_ids": ids, "logits": logits(model, ids)},
        "reference_greedy.npz": {"input_ids": np.array([prompt]), "tokens": np.array([greedy])},
    }


def evaluate(model, tokenizer, text):
    """Mean loss in nats over consecutive windows of the text, each from a zero state; the rest is left out."""
    ids = []
    for page in tokenizer.encode_batch(text.split("\f")):
        ids += [0, *page.ids]
    starts = range(0, len(ids) - WINDOW, WINDOW)
    rows = np.array([ids[s : s + WINDOW + 1] for s in starts])
    state, total = model.zero_state(len(rows)), 0.0
    for t in range(WINDOW):
        scores = model.step(rows[:, t], state)
        top = scores.max(-1)
        log_sum = top + np.log(np.exp(scores - top[:, None]).sum(-1))
        total += (log_sum - scores[np.arange(len(rows)), rows[:, t + 1]]).sum()
    return total / (len(rows) * WINDOW), len(rows) * WINDOW


def verify(found):
    """Names of the files that differ from a fresh run."""
    wrong = []
    for name, arrays in found.items():
        stored = np.load(HERE / name)
        if not all(
            stored[k].shape == v.shape and np.allclose(stored[k], v, rtol=1e-9, atol=1e-9) for k, v in arrays.items()
        ):
            wrong.append(name)
    return wrong


def main(command, argument):
    model, tokenizer = Model(), Tokenizer.from_file(str(HERE / "tokenizer.json"))
    if command == "write":
        for name, arrays in references(model, tokenizer).items():
            np.savez_compressed(HERE / name, **arrays)
    elif command == "verify":
        found = references(model, tokenizer)
        wrong = verify(found)
        print(tokenizer.decode(found["reference_greedy.npz"]["tokens"][0].tolist()))
        if wrong:
            sys.exit(f"differs: {', '.join(wrong)}")
        print("the references match")
    elif command == "evaluate" and argument:
        loss, count = evaluate(model, tokenizer, pathlib.Path(argument).read_text(encoding="utf-8"))
        print(f"held-out loss {loss:.4f} nats per token (perplexity {math.exp(loss):.2f}) over {count} tokens")
    elif command == "sample":
        random = np.random.default_rng(SAMPLE_SEED)
        prompt = argument or GREEDY_PROMPT

        def choose(scores):
            weights = np.exp((scores - scores.max()) / SAMPLE_TEMPERATURE)
            return random.choice(len(weights), p=weights / weights.sum())

        tokens = generate(model, [0, *tokenizer.encode(prompt).ids], SAMPLE_TOKENS, choose)
        print(prompt + tokenizer.decode(tokens, skip_special_tokens=False))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None)
