# One profile for everything but the image, and the same features in every build, so that nothing is built twice:
# tests/demo/Cargo.toml sees to it for the demonstration, and all else builds the whole workspace.
.DEFAULT_GOAL := help
.PHONY: help build test quick test-cluster check demo bench peers soak-rekey chaos fuzz mutants crds image image-reproducible cluster cluster-down chart-documents docs

# .config/nextest.toml has how many tests run side by side, unless TEST_THREADS says otherwise.
NEXTEST = PATH="$$PATH:$(CURDIR)/.peers/venv/bin" cargo nextest run --workspace --locked $(if $(TEST_THREADS),--test-threads=$(TEST_THREADS))

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: ## a forwarded port that survives the bastion's death, on this machine
	cargo build -p demo -p bastion-server -p tunnel-cli -p vault-signer --bins --locked
	@target/debug/demo $(DEMO)

build: ## everything that the tests run
	cargo build --workspace --all-targets --locked
	cargo test --no-run --workspace --test cluster --test cilium --locked

test: peers check build ## everything, against the real peers
	$(NEXTEST)
	cargo test --workspace --doc --locked

quick: peers ## the tests that need no other program
	$(NEXTEST) -E 'group(quick)'

check: ## format, lints, prose and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --test cluster --test cilium --locked -- -D warnings
	cargo test --quiet --workspace --test prose --test readme --locked
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

# Root, for namespaces, cgroups and containers: sudo asks other users.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=RUST_TEST_THREADS,CLUSTER_CNI,CLUSTER_KUBECONFIG,CLUSTER_LOAD)

# Connects pods: ptp, or cilium, which obeys network policies.
CNI ?= ptp
export CLUSTER_CNI := $(CNI)

test-cluster: peers build image ## what only shows in a real Kubernetes; with CNI=cilium under policies that are obeyed; needs root
	CNI=$(CNI) tests/cluster/install
	RUST_TEST_THREADS=$(or $(TEST_THREADS),6) tests/cluster/run cluster $(if $(filter cilium,$(CNI)),cilium) -- \
		$(if $(SUDO),--config "target.'cfg(unix)'.runner = '$(SUDO)'")

cluster: image ## a Kubernetes of one node on this machine, with the bastion's image, that stays; needs root
	CNI=$(CNI) tests/cluster/install
	cargo build --workspace --bin cluster --locked
	$(SUDO) target/debug/cluster up target/image/bastion-server-$(ARCH).oci.tar

cluster-down: ## ends it, and leaves nothing of it
	cargo build --workspace --bin cluster --locked
	$(SUDO) target/debug/cluster down

# Through each pair of ends, 64 streams each way. Optimised, since a debug build takes hours.
GIB ?= 20
soak-rekey: peers ## 20 GiB, or GIB, through each pair of ends while keys are replaced all the time
	cargo build --workspace --bins --release --locked
	SOAK_GIB=$(GIB) RUST_TEST_THREADS=1 cargo test --workspace --test peers --release --locked key_exchanges -- --nocapture

# Rows such as CHAOS="F03 F04", and the program's own options; without any, all of them.
chaos: peers ## every fault to survive, under open connections, beside ssh + autossh: one table; needs root
	cargo build --workspace --bins --locked
	cargo test --workspace --test peers --no-run --locked
	$(SUDO) target/debug/chaos $(CHAOS)

# The programs as they are shipped, and what measures them: no test's features are in them.
bench: peers ## our programs beside OpenSSH's, as a table and as JSON: all of it in a quarter of an hour, or BENCH="one-stream echo"
	cargo build --release --locked -p bench -p bastion-server -p tunnel-cli -p vault-signer --bins
	target/release/bench $(BENCH)

peers: ## other SSH programs, databases and OpenBao, for the tests
	tests/install

# The code that decides and does no I/O: `make mutants MUTANTS=access/policy.rs` for some of it.
MUTANTS ?= identity.rs identity/*.rs identity/revocation/*.rs access.rs access/*.rs destination.rs destination/*.rs limits/*.rs \
	accept/proxy/header.rs accept/prelogin.rs accept/fair_queue.rs accept/packet_gate.rs config/*.rs
mutants: ## breaks what decides, one piece at a time, and lists what no test of the library notices; hours: cargo install cargo-mutants --locked
	cargo mutants --package bastion-server --jobs 1 --output target \
		$(foreach file,$(MUTANTS),--file 'bastion-server/src/$(file)') --cargo-arg=--locked --cargo-test-arg=--lib

crds: ## the definitions of our Kubernetes objects, where the chart has them
	cargo run --quiet --locked -p bastion-server -- crdgen > deploy/charts/bastion/crds/tunnelpolicies.yaml

docs: ## the man pages, and the references of the configuration files, in docs
	cargo build --workspace --bins --locked
	WRITE_DOCS=1 cargo test --workspace --test peers --locked -- --exact program_documents::the_man_pages_and_the_references_are_those_of_the_programs

chart-documents: ## the schemas of the charts' values, and the tables of them in their READMEs
	cargo run --quiet --locked -p chart-documents -- $(dir $(wildcard deploy/charts/*/values.yaml))

ARCH := $(subst x86_64,amd64,$(subst aarch64,arm64,$(shell uname -m)))
IMAGE_ARCH ?= $(ARCH)
IMAGE_FLAGS ?=
image: ## the container image, for this machine or IMAGE_ARCH="amd64 arm64", in target/image
	deploy/image/toolchain $(subst amd64,x86_64-unknown-linux-musl,$(subst arm64,aarch64-unknown-linux-musl,$(IMAGE_ARCH)))
	cargo run --quiet --locked --package bastion-image -- $(addprefix --arch=,$(IMAGE_ARCH)) $(IMAGE_FLAGS)

image-reproducible: ## builds the image in another folder too, and compares
	deploy/image/reproduce $(IMAGE_ARCH)

# The stable compiler, told that it may use what libFuzzer needs. Our code has no unsafe block, so no sanitizer.
# What is found new is kept in tests/fuzz/found; what breaks something, in tests/fuzz/artifacts.
FUZZ_SECONDS ?= 300
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard tests/fuzz/fuzz_targets/*.rs)))
fuzz: ## each parser for five minutes, or FUZZ_SECONDS; needs `cargo install cargo-fuzz`
	for target in $(FUZZ_TARGETS); do \
		mkdir -p tests/fuzz/found/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target \
			tests/fuzz/found/$$target tests/fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 || exit 1; \
	done
