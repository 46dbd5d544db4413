# make run    the gateway, embedded
# make test   everything that tests: installs what it needs on Debian, then runs every test
# make check  format, lints, documentation, dependencies
# make clients  Socket.IO clients of other languages through drains and restarts: installs a JDK, Maven, Go and g++ where they are missing
# make chaos  long faults under load, an hour and a half (CHAOS_STORM_MINUTES, CHAOS_AWAY_MINUTES, CHAOS_DRAIN_SECONDS)
# make cluster  two nodes with Redis, PostgreSQL, a balancer and Prometheus, until Ctrl-C
# make bench  the gateway, a bare epoll server and other Socket.IO servers, every scenario, three rounds (BENCH='--only PATTERN --book …')
# make instructions  how many instructions the hot path takes, beside what is expected (BLESS=1 accepts what is counted)
# make fuzz   every decoder for FUZZ_SECONDS (60)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: run cluster test clients chaos check lint deny bench instructions fuzz setup setup-debian setup-npm peers test-rust test-node test-bench test-chart

FUZZ_SECONDS ?= 60
FUZZ_BUILD ?= --release
NODE_TESTS := gateway/tests/node
PEERS := loadtest/peers
BENCH ?=
FUZZ_TARGETS := eio_packet eio_payload sio_packet sio_reassembly ws_frames token query settings redis_message forwarded
DEBIAN := curl openssl postgresql pgbouncer redis-server prometheus haproxy nginx-light caddy libfaketime chromium fonts-dejavu-core python3-venv

run:
	MUSTER_COMMIT=$$(git rev-parse --short=12 HEAD) cargo run --release

test: setup test-rust test-node test-bench test-chart

# Natively, on loopback ports.
cluster:
	@$(MAKE) --no-print-directory setup-debian DEBIAN='postgresql redis-server haproxy prometheus curl python3'
	MUSTER_COMMIT=$$(git rev-parse --short=12 HEAD) cargo build --release
	gateway/deploy/cluster.sh

setup: setup-debian setup-npm

# Only what is missing is installed, so that a machine that has everything needs no root and no network.
setup-debian:
	@missing=; for package in $(DEBIAN); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "installing$$missing"; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing; \
	fi

setup-npm:
	@command -v npm >/dev/null || { echo 'no npm: install Node.js 20 or newer' >&2; exit 1; }
	@cd $(NODE_TESTS) && [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --ignore-scripts --no-audit --no-fund

test-rust:
	cargo test --workspace

# The tests start their own gateways; two files at once keep two cores busy without starving deadlines.
test-node: setup-npm
	cargo build --workspace
	cd $(NODE_TESTS) && node --test --test-concurrency=2 --test-timeout=600000 *.test.mjs

# The runner's statistics and tables; nothing is measured.
test-bench:
	node --test loadtest/bench/*.test.mjs

# The Helm chart: what it renders, and the rendered deployment's command.
test-chart: setup-debian
	cargo build --workspace
	GATEWAY_BIN=$(CURDIR)/target/debug/gateway charts/tests/run.sh

# JavaScript, Python, Java, Go and Rust; CLIENT=Java runs those whose name has that in it. A tool that is there needs no package.
clients: export PATH := $(PATH):/usr/local/go/bin
clients: setup-npm
	@need=; for tool in javac:default-jdk-headless mvn:maven go:golang-go g++:g++ pkg-config:pkg-config; do \
	  command -v $${tool%%:*} >/dev/null || need="$$need $${tool#*:}"; \
	done; \
	$(MAKE) --no-print-directory setup-debian DEBIAN="python3-venv libssl-dev$$need"
	@go version | grep -qE 'go1\.(2[1-9]|[3-9][0-9])|go[2-9]' || { echo "the clients in Go need Go 1.21 or newer, and there is $$(go version): install it from https://go.dev/dl" >&2; exit 1; }
	cargo build --workspace
	cd $(NODE_TESTS) && node --test --test-timeout=1200000 clients/*.test.mjs

# One after the other: each has the machine for itself, and says what it measured.
chaos: setup-npm
	@$(MAKE) --no-print-directory setup-debian
	cargo build --release -p gateway
	cd $(NODE_TESTS) && GATEWAY_BIN=$(CURDIR)/target/release/gateway node --test --test-concurrency=1 chaos/*.test.mjs
	cd $(NODE_TESTS) && GATEWAY_BIN=$(CURDIR)/target/release/gateway ORDER_ROUNDS=100 node --test order.test.mjs
	cd $(NODE_TESTS) && GATEWAY_BIN=$(CURDIR)/target/release/gateway COMMIT_ROUNDS=150 node --test commit_order.test.mjs
	cd $(NODE_TESTS) && GATEWAY_BIN=$(CURDIR)/target/release/gateway PAIRS_RUNS=150 node --test --test-concurrency=1 pairs_*.test.mjs
	cd $(NODE_TESTS) && GATEWAY_BIN=$(CURDIR)/target/release/gateway PAIRS_MINUTES=10 node --test removals.test.mjs

check: lint deny

lint:
	cargo fmt --all --check
	cargo fmt --check --manifest-path $(PEERS)/socketioxide/Cargo.toml
	cargo fmt --check --manifest-path gateway/tests/clients/rust/Cargo.toml
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --workspace --no-deps --document-private-items

deny:
	@command -v cargo-deny >/dev/null || { echo 'no cargo-deny: cargo install --locked cargo-deny' >&2; exit 1; }
	cargo deny --config .cargo/deny.toml check bans licenses sources

bench: peers
	@$(MAKE) --no-print-directory setup-debian DEBIAN=redis-server
	cargo build --release --workspace
	node loadtest/bench/main.mjs $(BENCH)

# The servers that the gateway is measured against. The packages' prebuilt binaries need no scripts.
peers:
	@cd $(PEERS)/node && [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --ignore-scripts --no-audit --no-fund
	cd $(PEERS)/socketioxide && cargo build --release --locked --target-dir target/glibc
	cd $(PEERS)/socketioxide && cargo build --release --locked --features mimalloc --target-dir target/mimalloc

# Counted under callgrind, so that a change of 5 % shows on a busy machine, too. What it counts and what it expects
# is in fanout/benches/instructions.
instructions:
	@$(MAKE) --no-print-directory setup-debian DEBIAN=valgrind
	cargo bench -p fanout --bench instructions -- $(if $(BLESS),bless,count)

fuzz:
	@command -v cargo-fuzz >/dev/null || cargo install --locked --debug cargo-fuzz
	cd shared/fuzz && for target in $(FUZZ_TARGETS); do \
	  mkdir -p target/found/$$target && \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run $(FUZZ_BUILD) $$target target/found/$$target corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=512 -print_final_stats=1; \
	done
