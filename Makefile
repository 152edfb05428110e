# Thin on purpose: cargo knows how. `make test` is everything CI runs before a merge.
.PHONY: demo test soak test-cluster lint charts packages release package image book bench bench-parts bench-tools tools counts counts-accept

COUNTER = --locked --quiet --profile counts --package cedargate-benches --bin instructions
INSTRUCTIONS = cargo run $(COUNTER) --
# what `make package` and `make image` pack: `make release` leaves it; any build will do
PROGRAM ?= target/pgo/cedargate

demo: ## two portals, a demo app, a token issuer, a login; prints what to try
	@.ci/demo-needs
	cargo run --locked -- demo

test: ## everything: format, lints, all tests, the packages, instruction counts
	$(MAKE) --jobs 2 --output-sync=target tools lint
	cargo test --locked --workspace --all-targets --no-run
	@# tests wait most of their time; meanwhile the charts are tested and cargo builds the counter, at a low priority
	(nice cargo build $(COUNTER) && nice .ci/charts check) & beside=$$!; .ci/rust-tests; tests=$$?; wait $$beside; exit $$((tests || $$?))
	cargo test --locked --workspace --doc
	.ci/packages
	$(INSTRUCTIONS) check

test-cluster: tools ## the gate on a real Kubernetes node of this machine, installed by its chart; needs Linux and root
	tests/cluster/tools
	cargo build --locked --profile quick --bin cedargate
	tests/cluster/run $(CHECKS)

counts: tools ## instructions per operation, compared with benches/instructions/baseline.json
	$(INSTRUCTIONS) check

counts-accept: tools ## what is counted now becomes the baseline
	$(INSTRUCTIONS) accept

soak: tools ## mixed traffic with reloads, new keys, Redis restarts: MINUTES=10
	cargo build --locked --profile quick --bin cedargate
	CEDARGATE_SOAK_SECONDS=$$(( $(or $(MINUTES),10) * 60 )) CEDARGATE_SOAK_BINARY=$(CURDIR)/target/quick/cedargate \
	cargo test --locked --test integration -- --nocapture soak_of_mixed_traffic

lint:
	cargo fmt --all --check
	cargo lint
	@if command -v cargo-deny >/dev/null; then cargo deny --config .deny.toml check bans licenses sources; \
	else echo "cargo-deny is not installed: skipped (cargo install cargo-deny --locked)"; fi

charts: tools ## the Helm charts alone: what is made from them is current, and what they render is right
	cargo build --locked --bin cedargate
	.ci/charts check

packages: ## the TypeScript and Python packages of packages/: lint, types, tests, builds, audits
	cargo build --locked --bin cedargate
	.ci/packages

release: ## the fastest build: learns from the traffic of benches/performance/train.rs; target/pgo/cedargate
	@.ci/release

package: ## tar, deb, bill of materials and checksums of $(PROGRAM), in dist/
	.ci/package $(PROGRAM) dist

image: package ## the image cedargate:local around the same program, with docker or podman
	$$(command -v docker || command -v podman) build --target prebuilt --build-arg TARGETARCH=$$(dpkg --print-architecture) --tag cedargate:local .

book: tools ## the pages of docs/ as a book: target/book/index.html
	target/tools/bin/mdbook build docs

bench: bench-tools ## the gate beside its peers and as its work grows; writes docs/performance.md
	cargo build --locked --release --bin cedargate
	cargo bench --locked --profile release --package cedargate-benches --bench performance -- --write $(BENCH)

bench-parts: ## the parts that decide the gate's speed
	cargo bench --locked --profile quick --package cedargate-benches --bench gate

bench-commands: ## validate, lint and test of 10,000 policies and 10,000 cases; fails beyond ten seconds
	cargo build --locked --profile quick --bin cedargate
	cargo bench --locked --profile quick --package cedargate-benches --bench commands

bench-tools: ## what the gate is compared with; names what cannot be installed
	@.ci/bench-tools

tools: ## what the tests run besides Rust
	@.ci/tools
