# Everything needs root, Debian 12, Rust and Go; the rest is installed or built on first use.

.PHONY: build dist setup demo demo-down test test-faults test-edits bench bench-scale docs fuzz

# Always the whole workspace: of one package alone, dependencies have other features and are built once more.
build:
	cargo build --release --workspace

# What machines run: optimised as a whole, which takes minutes after every change. With it, what measures it.
dist:
	cargo build --profile dist --workspace --bin ladon --bin ladon-cni --bin bench --bin fleet

# Debian packages, Kubernetes' programs and the guest's image, where they are missing.
setup: build
	target/release/lab-setup

demo: setup
	target/release/demo up

# What is there takes it away: no newer one is needed.
demo-down: target/release/demo
	target/release/demo down

target/release/demo:
	$(MAKE) build

test: setup
	target/release/lab-test

# What faults cost, with times as long as they are meant: half an hour. `make test` has a short part of it.
test-faults: setup
	LADON_FAULTS=long target/release/lab-test --test faults -- --include-ignored --nocapture --test-threads=1

# 100,000 random changes of all kinds of objects, after each few of which the flows must be those of a fresh start. Half a minute;
# `make test` has a tenth of it.
test-edits: setup
	PROPTEST_CASES=2700 target/release/lab-test --test incremental -- incremental_equals_full

# `make bench` measures everything, `make bench NAME...` some of it, `make bench NAMES=--small` tries all of it out.
ifneq (,$(filter bench bench-scale,$(firstword $(MAKECMDGOALS))))
NAMES := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
$(foreach name,$(NAMES),$(eval .PHONY: $(name))$(eval $(name): ; @:))
endif

bench: setup dist
	target/dist/bench $(NAMES)

# The same at growing sizes, beside OVN: an hour and more. It takes names, and `--small`, too.
bench-scale: setup dist $(if $(NAMES),,test-edits)
	target/dist/bench --scale $(NAMES)

# The pages of docs/ that are generated: each is written by the test that fails when it is stale.
docs:
	LADON_WRITE_DOCS=1 cargo test --release --quiet --workspace the_page_in_docs

# Every border of fuzz/ under libFuzzer, FUZZ_SECS seconds each. Needs `cargo install cargo-fuzz`; the compiler's fuzzing flags are
# a nightly compiler's, or any other's with RUSTC_BOOTSTRAP=1. What it finds belongs into fuzz/corpus, where every test run meets it.
FUZZ_SECS ?= 60
fuzz:
	for border in openflow ovsdb dhcp dhcpv6 nd packet-in cni views api; do \
		mkdir -p target/fuzz/$$border && RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=target/fuzz/build cargo fuzz run --features libfuzzer \
			--sanitizer none fuzz-$$border target/fuzz/$$border fuzz/corpus/$$border -- -max_total_time=$(FUZZ_SECS) \
			-max_len=16384 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 || exit 1; \
	done
