# Everything needs root, Debian 12, Rust and Go; the rest is installed or built on first use.

.PHONY: build setup demo demo-down test

build:
	cargo build --release --workspace

# Debian packages, Kubernetes' programs and the guest's image, where they are missing.
setup:
	cargo run --release --quiet --package lab --bin lab-setup

demo: setup build
	target/release/demo up

demo-down:
	cargo run --release --quiet --package demo -- down

test: setup
	cargo run --release --quiet --package lab --bin lab-test
