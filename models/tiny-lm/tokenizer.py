"""Trains the byte-level BPE tokenizer of tiny-lm.

Usage: python3 tokenizer.py TRAIN_TXT TOKENIZER_JSON

Needs the `tokenizers` package. Id 0 is `<|endoftext|>`, which begins every page; ids 1 to 256 are
the bytes, so any text can be encoded.
"""

import pathlib
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"


def main(text_path, tokenizer_path):
    text = pathlib.Path(text_path).read_text(encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split("\f"), trainer)
    tokenizer.save(tokenizer_path)
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
