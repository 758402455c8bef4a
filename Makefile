# Everything needs root, Debian 12, Rust and Go; the rest is installed or built on first use.

.PHONY: build setup demo demo-down test test-faults bench docs

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

# What faults cost, with times as long as they are meant: half an hour. `make test` has a short part of it.
test-faults: setup build
	LADON_FAULTS=long cargo run --release --quiet --package lab --bin lab-test -- --test faults -- --include-ignored --nocapture --test-threads=1

# `make bench` measures everything, `make bench NAME...` some of it, `make bench NAMES=--small` tries all of it out.
ifeq (bench,$(firstword $(MAKECMDGOALS)))
NAMES := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
$(foreach name,$(NAMES),$(eval .PHONY: $(name))$(eval $(name): ; @:))
endif

bench: setup build
	target/release/bench $(NAMES)

# The pages of docs/ that are generated: each is written by the test that fails when it is stale.
docs:
	LADON_WRITE_DOCS=1 cargo test --release --quiet --package pipeline --package ladon the_page_in_docs
