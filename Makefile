# One profile for everything, so that nothing is built twice.
.DEFAULT_GOAL := help
.PHONY: help test check demo peers

# Most tests wait for other processes, some of them for minutes: more at once than there are cores.
TEST_THREADS ?= 6

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: ## a forwarded port that survives the bastion's death, on this machine
	cargo build --workspace --bins --locked
	@target/debug/demo $(DEMO)

test: peers check ## everything, against the real peers
	cargo build --workspace --all-targets --locked
	RUST_TEST_THREADS=$(TEST_THREADS) cargo test --workspace --locked

check: ## format, lints and documentation, without running anything
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

peers: ## other SSH programs, PostgreSQL and OpenBao, for the tests
	tests/install
