# Two commands do all set-up: `make demo` and `make test`. CONTRIBUTING.md says what each target is for.
SHELL := /bin/bash
VENV := .venv/bin
# For maturin, which installs into the environment that is active.
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: wheel demo demo-remote test test-rust test-python lint fmt book models miri tsan fuzz fuzz-python kills soak bench-peers bench-peers-robustness setup native model clean

demo: setup model
	$(VENV)/maturin develop --quiet --release
	$(VENV)/python demo/demo.py

# Two engines that share a Redis server.
demo-remote: setup model
	$(VENV)/maturin develop --quiet --release
	$(VENV)/python demo/demo_remote.py

test: test-rust test-python

test-rust:
	cargo test --workspace

test-python: setup native
	$(VENV)/python -m pytest -q python/tests

lint:
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	$(VENV)/ruff format --check python demo scripts examples bench
	$(VENV)/ruff check python demo scripts examples bench

fmt:
	cargo fmt
	$(VENV)/ruff format python demo scripts examples bench
	$(VENV)/ruff check --fix python demo scripts examples bench

# docs/ as pages, into target/book.
book:
	@command -v mdbook >/dev/null || { echo "mdbook is not there; install it: cargo install mdbook --locked" >&2; exit 1; }
	mdbook build

# The wheel that others install, for CPython 3.11 and newer on machines with glibc 2.28 or newer, and the sdist. They go to
# target/wheels. zig compiles and links against a C library older than this machine's.
wheel:
	python3 -m venv target/wheel-venv
	target/wheel-venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement python/requirements-wheel.txt
	rm -rf target/wheels
	target/wheel-venv/bin/maturin sdist --out target/wheels
	PATH="$(CURDIR)/target/wheel-venv/bin:$$PATH" VIRTUAL_ENV= target/wheel-venv/bin/maturin build --release --locked --zig --compatibility manylinux_2_28 --out target/wheels

# Threads in one order after another (docs/MODELS.md): so many times the orders that each model asks for, from a seed.
MODELS_TIMES ?= 1
MODELS_SEED ?= 1
models:
	FOREBAY_MODELS_TIMES=$(MODELS_TIMES) FOREBAY_MODELS_SEED=$(MODELS_SEED) cargo test -p forebay-models --test models

# Undefined behaviour in the crates' unsafe code, as far as an interpreter can run it. Needs a nightly toolchain.
miri:
	MIRIFLAGS=-Zmiri-permissive-provenance cargo +nightly miri test -p forebay --lib --test miri miri_

# Data races, in tests that have threads meet, with the standard library compiled for it too. Needs a nightly toolchain with
# the component `rust-src`. Memory is mapped by the C library's functions, which the checker knows of, not by
# system calls. What it takes itself is no test of memory.
TSAN_TESTS ?= staging stress tiers events guarantees faults
tsan:
	RUSTFLAGS=-Zsanitizer=thread cargo +nightly test -Zbuild-std --target x86_64-unknown-linux-gnu --target-dir target/tsan -p forebay --features rustix/use-libc --lib \
		$(addprefix --test ,$(TSAN_TESTS)) -- --skip guarantee_2_memory_does_not_grow

# Each target of what is read from outside, for so long. Needs a nightly toolchain, and cargo-fuzz 0.13.
FUZZ_SECONDS ?= 600
fuzz:
	cd crates/forebay-fuzz && for target in $$(cargo +nightly fuzz list); do \
		cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=16384 || exit 1; done

# The same for what the Python package takes. Uses atheris, which it installs.
fuzz-python: native
	$(VENV)/python -m pip install --quiet --disable-pip-version-check --requirement python/requirements-fuzz.txt
	$(VENV)/python python/fuzz/run.py --seconds $(FUZZ_SECONDS)

# A process that stores is killed so often, and what it had reported is looked for.
KILLS ?= 1000
kills:
	FOREBAY_KILLS=$(KILLS) cargo test --release -p forebay --test crash

# Two engines and a trace over all tiers, with a fault each second. Needs redis-server. SEED=N repeats a run's requests and faults.
MINUTES ?= 30
soak:
	cargo run --release -p forebay-soak -- --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# Against LMCache, vLLM's own tiering and foyer; writes its tables into docs/BENCHMARKS.md. Not part of CI.
bench-peers: setup model
	python3 bench/peers/run.py

# The same caches with damaged files, a full disk, a killed process; writes docs/ROBUSTNESS.md. Not part of CI.
bench-peers-robustness: setup
	python3 bench/peers/run.py robustness

setup:
	scripts/setup_system.sh
	scripts/setup_vllm.sh
	$(VENV)/python -m pip install --quiet --disable-pip-version-check --requirement python/requirements-dev.txt

native: setup
	$(VENV)/maturin develop --quiet

model: setup
	$(VENV)/python scripts/prepare_model.py

clean:
	rm -rf target .venv .models bench/peers/.venv bench/peers/foyer/target
