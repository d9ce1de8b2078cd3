# What people type here; `just` without a word lists it. Nothing else needs it: each recipe is a line or two to copy.

default:
    @just --list

# The first run: LoRA-A² on the built-in corpus and backbone, CPU alone (the shortest build)
quickstart:
    cargo run --release --no-default-features --features flex -- train

# The program, with the CPU and wgpu
build:
    cargo build --release

# The program for NVIDIA cards
build-cuda:
    cargo build --release --features cuda

# Tests whose name has FILTER in it, or all of them
test FILTER="":
    cargo test --release --workspace {{ FILTER }}

# Formatting and lints, warnings as errors
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# All that continuous integration does
ci:
    .ci/run

# The pages as a book, its links followed
book:
    python3 scripts/docs/book.py

# Wheels of the Python package and of the program, into dist
wheels:
    python3 scripts/release/notices.py --manifest crates/python/Cargo.toml --package bonfire-python --out crates/python/THIRD-PARTY.txt
    python3 scripts/release/notices.py --out crates/cli/THIRD-PARTY.txt
    maturin build --release --manifest-path crates/python/Cargo.toml --target-dir target --out dist
    maturin build --release --manifest-path crates/cli/Cargo.toml --out dist

# An archive of the program with its licences, man page and completions, and its checksum, into dist
archive: build
    python3 scripts/release/archive.py --bonfire target/release/bonfire --out dist

# CPU seconds of a build from nothing, by crate
cold-build *ARGUMENTS:
    python3 scripts/measurements/cold_build.py {{ ARGUMENTS }}
