# What there is to do here; `make` alone lists it.

CARGO ?= cargo
PREFIX ?= /usr/local
# Where cargo puts what it builds.
TARGET := $(or $(CARGO_TARGET_DIR),target)
STATIC := $(TARGET)/x86_64-unknown-linux-gnu/release/pgpoke
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)

.DEFAULT_GOAL := help
.PHONY: help build static install deb rpm image deps testext test soak fuzz fixtures snapshots docs lint demo rehearsal bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build target/release/pgpoke
	$(CARGO) build --release

# Position-independent, with glibc in it; starts on any kernel since 3.2. The target has to be named, or build scripts
# and macros would be linked so, too.
static: ## build one static file: target/x86_64-unknown-linux-gnu/release/pgpoke
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --target x86_64-unknown-linux-gnu

# Under sudo there may be no cargo, and a program that was built before.
install: $(if $(shell command -v $(CARGO)),build) ## install it, its manual page and its completions below PREFIX (/usr/local); DESTDIR goes before that
	./scripts/install.sh $(TARGET)/release/pgpoke $(DESTDIR)$(PREFIX)

deb: static ## make a Debian package of the static file: target/packages/pgpoke_….deb
	./scripts/packages.sh --install
	./scripts/packages.sh deb $(STATIC)

rpm: static ## make an RPM package of the static file: target/packages/pgpoke-….rpm
	./scripts/packages.sh --install
	./scripts/packages.sh rpm $(STATIC)

image: static ## make an image for a sidecar, with the static file and nothing else: localhost/pgpoke:VERSION
	./scripts/packages.sh image $(STATIC)

deps: ## install what the tests and the demo need (Debian; root or sudo)
	./scripts/install-deps.sh

testext: ## build the extension that gets backends stuck
	$(MAKE) --silent -C testext PG_CONFIG=$(PG_CONFIG)

# With the release profile, since some tests measure how long a backend stands still.
test: deps testext static ## run all tests, on throwaway servers
	$(CARGO) test --release --tests
	$(CARGO) test --release --doc
	./scripts/fuzz.sh 5

soak: deps testext ## prove the promises of docs/safety.md in their long form, some hours
	PGPOKE_SOAK=1 $(CARGO) test --release --test suite -- safety:: --nocapture --test-threads 1

# How long each target runs, in seconds.
FUZZ_TIME ?= 600
fuzz: deps ## feed each reader of foreign bytes with hostile ones, for FUZZ_TIME seconds
	./scripts/fuzz.sh $(FUZZ_TIME)

fixtures: deps testext ## capture the snapshots in tests/fixtures anew
	$(CARGO) test --release --test suite -- --ignored --exact capture::capture_the_fixtures

snapshots: ## write the texts in tests/snapshots anew; review what changed
	PGPOKE_WRITE_SNAPSHOTS=1 $(CARGO) test --release --test texts

docs: testext ## write anew what in docs/ is made from the code, and the transcripts in README.md
	PGPOKE_WRITE_DOCS=1 $(CARGO) test --release --test docs
	PGPOKE_WRITE_DOCS=1 $(CARGO) test --release --test suite -- transcripts::the_transcripts

lint: ## check formatting, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps --document-private-items

demo: build ## see a stuck backend inspected and interrupted
	./scripts/install-deps.sh --demo
	$(MAKE) --silent testext
	./scripts/demo.sh

rehearsal: static ## practise on a server that is stuck in a way picked at random
	./scripts/rehearsal.sh $(STATIC)

bench: deps ## measure pgpoke beside gdb, gcore and eu-stack
	$(CARGO) bench --bench versus

clean: ## remove everything that was built
	$(CARGO) clean
	$(MAKE) --silent -C testext PG_CONFIG=$(PG_CONFIG) clean
