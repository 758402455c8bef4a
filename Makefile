# Everything needs root, Debian 12, Rust and Go; the rest is installed or built on first use.

.PHONY: build setup demo demo-down test docs

build:
	cargo build --release --workspace

# Debian packages, Kubernetes' programs and the guest's image, where they are missing.
setup:
	cargo run --release --package lab --bin lab-setup

demo: setup build
	target/release/demo up

demo-down:
	cargo run --release --quiet --package demo -- down

test: setup
	cargo run --release --package lab --bin lab-test

# The pages of docs/ that are generated: each is written by the test that fails when it is stale.
docs:
	LADON_WRITE_DOCS=1 cargo test --release --quiet --package pipeline --package ladon the_page_in_docs
