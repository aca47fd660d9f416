# Short names for what people do; the logic is in `cargo xtask`.

# Cases of the corpus that are supported so far: all ONNX models, and the checkpoints of these families.
CORPUS_CASES = ^(ckpt_(mamba|mamba2|falcon_mamba|mamba2_f16|mamba_bf16_sharded|mamba_ssm_original|mamba_tokenizer)|[^c].*)$$
DEMO = .cache/demo

# Those of them that run on aarch64 under qemu.
ARM_CASES = ^(ckpt_(mamba|mamba2)|lru_pytorch_dynamo18|trained_typeseg_bimamba_scan)$$

.PHONY: help setup demo test check oracle arm

help:
	@echo "make demo    compile two trained models and run them"
	@echo "make test    every test; with SSMC_CORPUS=DIR also the models of a corpus folder"
	@echo "make oracle  what compares with tract, an engine of others; not part of make test"
	@echo "make arm     models of a corpus folder on aarch64 under qemu, whole and kernel by kernel"
	@echo "make check   format, lints, documentation, rules of the code base"

setup:
	sh scripts/setup.sh

demo: setup
	cargo build --release --package ssmc
	mkdir -p $(DEMO)
	cargo run --quiet --release --package ssmc -- compile models/tiny-lm -o $(DEMO)/tiny-lm.ssmc
	cargo run --quiet --release --package ssmc -- generate $(DEMO)/tiny-lm.ssmc \
		--tokenizer models/tiny-lm/tokenizer.json --bos 0 --prompt "To create a new table," \
		--max-tokens 60 --temperature 0.7 --top-p 0.9 --seed 1
	cargo xtask demo-typeseg README.md

test: setup
	-sh scripts/ptxas.sh
	cargo test --workspace
ifdef SSMC_CORPUS
	cargo xtask corpus "$(SSMC_CORPUS)" --filter '$(CORPUS_CASES)' --stage kernel
else
	@echo "SSMC_CORPUS is not set: the models of a corpus folder were not tried"
endif

check: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo clippy --workspace --all-targets --no-default-features \
		--features ssmc/bin,ssmc/cuda,ssmc-runner/cuda,ssmc-tests/cuda -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items
	cargo xtask tidy

oracle:
	cargo test --package ssmc-frontend --features oracle --lib oracle
	cargo clippy --package ssmc --package xtask --no-default-features \
		--features ssmc/bin,ssmc/oracle,xtask/oracle -- --deny warnings

arm: setup
	runner=$$(sh scripts/aarch64.sh) && cargo xtask corpus "$(SSMC_CORPUS)" --filter '$(ARM_CASES)' \
		--target aarch64-i8mm --runner "$$runner" --stage kernel
