# Thin targets: each is one command that can be typed by hand as well. `make help` lists them.
#
# All of them share one cargo profile (release) and one target folder outside the clone, so that RocksDB, the longest
# part of a first build, is compiled once and survives `git clean` and fresh clones.

SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/causeway/target
CARGO := cargo
BIN   := $(CARGO_TARGET_DIR)/release
# Eight seeds of each scenario: two of the first twenty still show a known fault of custody, see CHANGELOG.md.
SWEEP  = $(BIN)/netsim sweep --seed $(SEED) --count 8 --seconds 50

# make ring: DELAY=0 turns the round trips off; KEEP=0 stops after the job; DATA is where the ring keeps its disks.
DELAY ?= 1
KEEP  ?= auto
DATA  ?= ring
# make fuzz and make chaos
MINUTES ?= 10
POINTS  ?= 200
SEED    ?= 1
# make backends: which of scripts/backends/*.sh; KEEP=1 leaves the platforms running
BACKENDS ?= slurm

.DEFAULT_GOAL := help
.PHONY: help setup build ring test check fix bench evaluate sim sim-long fuzz chaos backends backends-down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## system packages that the build needs (says what it installs)
	@scripts/setup.sh

build: setup ## the release binaries
	$(CARGO) build --release --workspace --bins

ring: build ## five regions on this machine, and three tasks that find their way (DELAY=0, KEEP=0, DATA=dir)
	$(BIN)/causeway lab up --data $(DATA) --delay $(DELAY) --keep $(KEEP)

test: setup ## every test, and the simulator's sweep
	$(CARGO) test --release --workspace
	@# the simulator that the tests were built with: `make sim` would build all once more, without the tests' features
	$(SWEEP)

check: setup ## format, lints and documentation; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps

fix: setup ## format, and the lints' own corrections
	$(CARGO) fmt --all
	$(CARGO) clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

bench: build ## all measurements of BENCHMARKS.md (long)
	scripts/bench.sh

evaluate: build ## the paper's table beside ours (SITES=dir with sites.csv and sites_rtt.csv for the 43 cities)
	$(BIN)/netsim evaluate $(if $(SITES),--data $(SITES))

sim: build ## every fault scenario of the simulator, for less than a minute
	$(SWEEP)

sim-long: build ## thousands of lives
	$(BIN)/netsim sweep --seed $(SEED) --count 100

fuzz: build ## every fuzz target for MINUTES minutes each
	$(BIN)/fuzz --minutes $(MINUTES) --seed $(SEED)

chaos: build ## kill -9 at POINTS seeded points of a working ring
	$(BIN)/chaos --points $(POINTS) --seed $(SEED)

backends: build ## real control planes: installs, starts and tests BACKENDS="slurm ..." (root, Debian packages; says which)
	@CARGO="$(CARGO)" KEEP=$(if $(filter 1,$(KEEP)),1,0) scripts/backends/up.sh $(BACKENDS)

backends-down: ## stops what `make backends KEEP=1` left running
	@scripts/backends/down.sh

clean: ## remove the ring's disks; the build stays
	rm -rf -- "$(DATA)"
