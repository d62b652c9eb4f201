# Every habit of the project by name; `make help` lists them. What a target needs it
# installs: Debian packages as root or through sudo, Python packages at pinned versions.

PYTHON ?= /usr/bin/python3
CLANG ?= clang-14
export PYTHON CLANG

MACHINE := $(shell uname -m)
BPF_ARCH := $(if $(filter aarch64,$(MACHINE)),arm64,x86)
BPF_FLAGS := -target bpf -D__TARGET_ARCH_$(BPF_ARCH) -g -O2 -Wall -Wextra -Wno-unused-parameter \
	-Wpadded -Werror -I/usr/include/$(MACHINE)-linux-gnu -Ibpf

# Others may be at work on this machine.
NICE := nice -n 10
# Loading BPF needs root; whoever is root may have no sudo.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
GIVE_BACK := @deploy/install.sh give-back

BPF_OBJECT := agent/waggle/bpf/waggle.bpf.o
LAYOUT := agent/waggle/layout.py
VENV := .venv/bin
PIP := $(NICE) $(VENV)/python -m pip --quiet --disable-pip-version-check
PYTEST := $(NICE) $(VENV)/python -m pytest

# What mypy looks at; programs that are traced run in an environment of their own. The tests are
# imported by pytest from tests/, the benchmarks from here.
TYPED := agent/waggle bpf/tools deploy/demo/demo.py tests/kernel tests/unit tests/vm $(wildcard tests/peers/*.py)
TYPED_BENCH := $(wildcard tests/bench/*.py)

.DEFAULT_GOAL := build
# Building is quick; two compilers at once would only disturb the programs that are measured.
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: build
build: .venv/.waggle $(BPF_OBJECT) ## Build the agent: leaves a working .venv/bin/waggle
	$(GIVE_BACK)

.PHONY: demo
demo: build ## Start a small system of seven programs, trace it, print the traces
	@$(AS_ROOT) tests/peers/install.sh demo
	@$(AS_ROOT) env WAGGLE_BUILD_JOBS=$${WAGGLE_BUILD_JOBS:-$$(nproc)} \
		$(VENV)/python deploy/demo/demo.py $(VENV)/waggle
	$(GIVE_BACK)

.PHONY: check
check: lint types check-generated unit ## Linters, types, generated files, unit tests: no root, below two minutes
	$(GIVE_BACK)

.PHONY: test
test: check ## Everything but other kernels: check, then tests/kernel and tests/peers as root
	@$(AS_ROOT) tests/peers/install.sh
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} $(PYTEST) tests/kernel tests/peers
	$(GIVE_BACK)

.PHONY: test-full
test-full: build .venv/.packages-dev ## Every server with every client, every way: what `test` leaves out for time
	@$(AS_ROOT) tests/peers/install.sh
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} $(PYTEST) -m 'not vm and not backends' tests/kernel tests/peers
	$(GIVE_BACK)

.PHONY: test-backends
test-backends: build .venv/.packages-dev ## Servers that take minutes to build, once: Jaeger, Prometheus
	@$(AS_ROOT) tests/peers/install.sh
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} $(PYTEST) -m backends tests/peers
	$(GIVE_BACK)

.PHONY: test-python
test-python: build .venv/.packages-dev ## Python: every server, client and shape, every interpreter of this machine
	@$(AS_ROOT) tests/peers/install.sh python
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} $(PYTEST) -m 'not vm' \
		tests/peers/test_python*.py tests/peers/test_interpreters.py tests/peers/test_lines.py
	$(GIVE_BACK)

.PHONY: test-go
test-go: build .venv/.packages-dev ## Go: every framework, client and shape, every version of Go
	@$(AS_ROOT) tests/peers/install.sh go
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} $(PYTEST) -m 'not vm' tests/peers/test_go*.py
	$(GIVE_BACK)

.PHONY: test-runtimes
test-runtimes: build .venv/.packages-dev ## Parents in other runtimes: Apache httpd, Java, PHP, Ruby, C, Rust, ...
	@$(AS_ROOT) tests/peers/install.sh runtimes
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} $(PYTEST) -m 'not vm' tests/peers/test_runtimes.py tests/peers/test_mixed_chain.py
	$(GIVE_BACK)

WAGGLE_TEST_SOAK ?= 400

.PHONY: soak
soak: build .venv/.packages-dev ## At length: no byte altered, in Go programs under stress, with agents that come and go
	@$(AS_ROOT) tests/peers/install.sh
	@$(AS_ROOT) tests/peers/install.sh grpc
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} WAGGLE_TEST_SOAK=$(WAGGLE_TEST_SOAK) \
		$(PYTEST) tests/kernel/test_inject*.py tests/peers/test_inject*.py tests/peers/test_unaltered.py \
		tests/peers/test_tls.py::test_killed_agent_harms_nobody
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} WAGGLE_TEST_SOAK=$(WAGGLE_TEST_SOAK) \
		$(PYTEST) -m 'not vm' tests/peers/test_go_soak.py
	$(GIVE_BACK)

.PHONY: test-grpc
test-grpc: build .venv/.packages-dev ## HTTP/2 and gRPC: every implementation with every other, both ways
	@$(AS_ROOT) tests/peers/install.sh grpc
	$(AS_ROOT) env WAGGLE_REQUIRE_KERNEL=$${WAGGLE_REQUIRE_KERNEL:-1} $(PYTEST) -m 'not vm' tests/peers/test_grpc*.py \
		tests/peers/test_http2.py tests/peers/test_inject_http2.py
	$(GIVE_BACK)

.PHONY: test-vm
test-vm: build .venv/.packages-dev ## The agent under other kernels, in emulation; WAGGLE_VM=bookworm,sid picks some
	$(AS_ROOT) $(VENV)/python -m tests.vm prepare $(foreach suite,$(VM_SUITES),--kernel $(suite))
	$(AS_ROOT) env WAGGLE_VM="$(WAGGLE_VM)" WAGGLE_REQUIRE_VM=1 $(PYTEST) -m vm tests/vm
	$(GIVE_BACK)

comma := ,
VM_SUITES = $(subst $(comma), ,$(WAGGLE_VM))

.PHONY: bench
bench: build .venv/.packages-dev ## Side by side with and without the agent; writes docs/performance.md
	@$(AS_ROOT) tests/peers/install.sh
	$(AS_ROOT) $(VENV)/python -m tests.bench --write
	$(GIVE_BACK)

.PHONY: lint
lint: .venv/.packages-dev ## ruff: rules and format
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

.PHONY: format
format: .venv/.packages-dev ## ruff: mend what it can
	$(VENV)/ruff check --fix --exit-zero --quiet .
	$(VENV)/ruff format .
	$(VENV)/ruff check .

.PHONY: types
types: .venv/.packages-dev ## mypy --strict
	@MYPYPATH=tests:tests/peers/programs/raw:deploy/demo $(NICE) $(VENV)/mypy $(TYPED)
	@$(if $(TYPED_BENCH),$(NICE) $(VENV)/mypy $(TYPED_BENCH))

.PHONY: unit
unit: build .venv/.packages-dev ## Unit tests
	$(PYTEST) --numprocesses auto --dist worksteal tests/unit

.PHONY: generate
generate: $(BPF_OBJECT) .venv/.packages-dev ## Write agent/waggle/layout.py from bpf/waggle.h
	@mkdir -p build
	@$(call write_layout,build/layout.py)
	@cp build/layout.py $(LAYOUT)

.PHONY: check-generated
check-generated: $(BPF_OBJECT) .venv/.packages-dev ## Fail when agent/waggle/layout.py is not what bpf/waggle.h says
	@mkdir -p build
	@$(call write_layout,build/layout.py)
	@diff -u $(LAYOUT) build/layout.py || { echo 'make: bpf/waggle.h has changed: run make generate'; exit 1; }

# Formatted like everything else, so that no formatter can make it differ.
write_layout = PATH="$$PATH:/usr/sbin" $(PYTHON) bpf/tools/generate_layout.py $(BPF_OBJECT) >$(1).raw && \
	$(VENV)/ruff format --quiet - <$(1).raw >$(1) && rm $(1).raw

PYTHONS = $(wildcard $(HOME)/.pyenv/versions/3.[789].*/bin/python3 $(HOME)/.pyenv/versions/3.1?.*/bin/python3) \
	/usr/bin/python3

.PHONY: python-offsets
python-offsets: build ## Measure what Waggle reads of CPython in each of PYTHONS; writes probes/python/table.py
	$(VENV)/python -m waggle.probes.python.make_table $(PYTHONS)
	$(VENV)/ruff format --quiet probes/python/table.py

GO_VERSIONS = 1.17.13 1.18.10 1.19.13 1.20.14 1.21.13 1.22.12 1.23.12 1.24.10 1.25.4 1.26.8 1.27.0

GRPC_VERSIONS = 1.50.1 1.60.1 1.64.0 1.67.1 1.69.4 1.70.0 1.72.0 1.76.0 1.77.0 1.80.0 1.82.1 1.85.0
ROUTER_VERSIONS = gin 1.5.0 1.6.3 1.7.7 1.8.1 1.9.1 1.10.1 1.11.0 1.12.0 \
	chi 5.0.0 5.0.2 5.0.7 5.0.8 5.0.10 5.0.11 5.0.12 5.1.0 5.2.3 5.5.0 mux 1.7.4 1.8.0 1.8.1 \
	echo 4.1.17 4.5.0 4.9.1 4.11.4 4.12.0 4.13.2 4.13.4 4.16.0

.PHONY: go-offsets
go-offsets: build ## Build tiny programs with each of GO_VERSIONS, which Go fetches; writes probes/go/table.py
	$(NICE) $(VENV)/python -m waggle.probes.go.make_table $(GO_VERSIONS) grpc $(GRPC_VERSIONS) \
		$(ROUTER_VERSIONS)
	$(VENV)/ruff format --quiet probes/go/table.py

.PHONY: lock
lock: | packages ## Pin the newest versions in requirements.lock and requirements-dev.lock
	$(NICE) deploy/lock.sh

.PHONY: clean
clean: ## Remove everything that was built, .venv included
	rm -rf .venv build agent/waggle/bpf agent/*.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 18

# --- what the targets are made of -------------------------------------------

.PHONY: packages packages-dev
packages:
	@deploy/install.sh build

packages-dev:
	@deploy/install.sh check

$(BPF_OBJECT): $(wildcard bpf/*.h bpf/*.c) Makefile | packages
	@test $(MACHINE) = x86_64 || { echo 'make: only x86_64 so far, this is $(MACHINE)'; exit 1; }
	@mkdir -p $(@D)
	$(NICE) $(CLANG) $(BPF_FLAGS) -c bpf/waggle.bpf.c -o $@.new
	@mv $@.new $@ # whole or not at all: an agent may be starting

.venv/.venv: | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'make: $(PYTHON) is older than Python 3.11: give another with PYTHON=...'; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.packages: requirements.lock .venv/.venv
	$(PIP) install --require-hashes --no-deps -r requirements.lock
	@touch $@

.venv/.packages-dev: requirements-dev.lock .venv/.packages | packages-dev
	$(PIP) install --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

# setuptools is pinned in requirements.lock, so nothing else is fetched to build the package.
.venv/.waggle: pyproject.toml .venv/.packages
	$(PIP) install --no-deps --no-build-isolation -e .
	@$(VENV)/python -m compileall -q agent/waggle # a start must not wait for it
	@touch $@
