# Thin on purpose: what is done is in e2e/ (Rust) and charts/. CI runs these targets and nothing else.
#
#   make demo                       on this machine: a real Kubernetes, as root
#   make demo CONTEXT=my-cluster    in a cluster of yours: needs its kube context and helm, neither root nor Go
#                                   IMAGE=registry/understudy:tag uses another image than the published one,
#                                   MYSQL_IMAGE=registry/mysql:8.4 another MySQL

SHELL   := /bin/bash
NODES   ?= 3
# Without -p: built with the features of the whole workspace, so that nothing is compiled twice.
LAB     := cargo run -q --locked --bin lab --
HELM    ?= $(LAB) helm
TOOLS   := $(or $(UNDERSTUDY_CACHE),$(HOME)/.cache/understudy)/tools
DENY    := $(TOOLS)/bin/cargo-deny
# Every test of e2e that needs a lab, by its line in e2e/Cargo.toml.
IN_LAB  := $(shell awk '/^name =/ {gsub(/"/, ""); name = $$3} /required-features = ."lab"./ {print "--test", name}' e2e/Cargo.toml)
LAB_LOG := $(or $(TMPDIR),/tmp)/understudy-lab-down.log

.PHONY: demo test lint generate bench simulate mutants nemesis plugin lab-up lab-down help

help: ## What there is.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

demo: $(if $(CONTEXT),,lab-up) ## Two commands to a MySQL cluster that survives what is done to it.
	cargo run -q --locked --bin demo -- $(if $(CONTEXT),--context $(CONTEXT)) $(if $(IMAGE),--image $(IMAGE)) $(if $(MYSQL_IMAGE),--mysql-image $(MYSQL_IMAGE))

test: ## Every test; those that need root and the lab come last.
	@# The sidecar's tests run the mysqld of the lab's image.
	$(LAB) images
	@# More at a time than there are cores: most of them wait most of the time.
	RUST_TEST_THREADS=8 cargo test --locked --workspace
	cargo test --locked --workspace --features e2e/lab $(IN_LAB) --no-run
	@# The lab goes down whatever the tests said, and says so elsewhere: their verdict is the end of the output.
	@# What runs at a time is weighed in e2e/src/stage.rs: most threads only wait there.
	@# Afresh: in a lab that was killed, pods and volumes of other tests would come back.
	@set -e; trap '$(LAB) down >$(LAB_LOG) 2>&1' EXIT; $(LAB) down; $(LAB) up --nodes $(NODES); \
	  RUST_TEST_THREADS=10 cargo test --locked --workspace --features e2e/lab $(IN_LAB) --no-fail-fast

lint: $(DENY) ## Format, clippy, licences and sources of dependencies, generated files, the chart.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(DENY) --locked check bans licenses sources
	@# The sidecar never talks to Kubernetes: its tree shows it.
	@if cargo tree --locked -p sidecar -e normal,build --prefix none | grep -E '^(kube|k8s-openapi)'; then exit 1; fi
	.ci/orphans
	$(HELM) lint --strict charts/understudy
	$(MAKE) generate
	git diff --exit-code -- crds/yaml charts/understudy/crds docs/reference.md

generate: ## What is made from the types: CRDs, their copy in the chart, the reference.
	cargo run -q --locked --bin generate yaml crds/yaml
	cp crds/yaml/*.yaml charts/understudy/crds/
	cargo run -q --locked --bin generate reference docs/reference.md

bench: lab-up ## Measure, each figure beside its floor from the same run; WHAT="gaps mongo idle" is a part of it.
	cargo run --release --locked --bin bench -- $(WHAT)

simulate: ## N schedules of faults against the real decisions, beyond the 20000 of the test command: N=1000000 for a night.
	cargo run -q --locked -p simulator --bin simulate -- --from 20000 --seeds $(or $(N),100000) --threads $(shell nproc)

mutants: ## Bugs put back one at a time: the simulation must find each.
	cargo run -q --locked -p simulator --bin mutants

nemesis: lab-up ## Faults for MINUTES while clients write, then the checker; ENGINE, SEED, MEMBERS and FAULTS as a failure printed them.
	@# What is given to make is given to it.
	cargo test --locked --workspace --features e2e/lab --test nemesis -- --nocapture

plugin: ## Install kubectl understudy for yourself.
	cargo install --locked --path plugin

lab-up: ## A real Kubernetes of NODES nodes on this machine, as root.
	$(LAB) up --nodes $(NODES)

lab-down: ## Remove it without a trace.
	$(LAB) down

$(DENY):
	cargo install --locked --version 0.20.2 --root $(TOOLS) cargo-deny
