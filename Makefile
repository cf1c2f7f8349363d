# Targets for people; `make help` lists them.  CI calls .ci/run, which calls `make test`.
#
# The cache (sources, built trees, foreign roots for tests) lies outside the checkout, so that a fresh
# clone starts warm: BUNDLE_CACHE, else $XDG_CACHE_HOME/bundle, else ~/.cache/bundle.

SHELL = /bin/sh
.DEFAULT_GOAL = help
.PHONY: help setup setup-dev lint test test-all test-kill test-elf fuzz-elf toolchain toolchain-suites demo bench requirements clean

PYTHON = .venv/bin/python
PYTEST = $(PYTHON) -m pytest
# Long files first: the short ones fill what the processors have left at the end.
TESTS = tests/integration tests/elf tests/unit
# A file's tests stay in one process, which has engines, roots and layouts of its own (-n0: one process for all).
PARALLEL = -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A name with a trailing ? is installed where this release of Debian has it.
PACKAGES = ca-certificates bubblewrap gpgv

# What tests judge by: engines, clients, linkers, foreign C libraries and an emulator to load them in.
ENGINES = docker.io docker-cli? docker-buildx? docker-compose podman buildah skopeo umoci docker-registry crun? iptables \
	debootstrap
TOOLS = gcc g++ libc6-dev linux-libc-dev make bzip2 pigz xz-utils zstd git gnupg musl-tools busybox-static \
	elfutils binutils gdb lld mold? graphviz strace acl attr libcap2-bin rsync openssl util-linux procps
MACHINES = qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6-i386 libc6-armhf-cross? \
	libc6-mips-cross? libc6-mips64el-cross? libc6-powerpc-cross? libc6-ppc64-cross? libc6-ppc64el-cross? \
	libc6-riscv64-cross? libc6-s390x-cross? libc6-sparc64-cross?
TEST_PACKAGES = $(PACKAGES) $(ENGINES) $(TOOLS) $(MACHINES)

# C libraries of other machines, which the ELF tests patch and load in an emulator.
ELF_PACKAGES = g++ gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libc6-armhf-cross libc6-i386 \
	libc6-mips-cross? libc6-mips64el-cross libc6-powerpc-cross libc6-ppc64-cross libc6-ppc64el-cross \
	libc6-riscv64-cross libc6-s390x-cross libc6-sparc64-cross

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## make .venv with the bundle command; as root, install missing system packages
	@scripts/system-packages $(PACKAGES)
	@scripts/setup requirements.lock

setup-dev: ## setup, and what checks and tests need
	@scripts/system-packages $(PACKAGES)
	@scripts/setup requirements.lock requirements-dev.lock

lint: setup-dev ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test: setup-dev ## unit and integration tests; starts and stops the engine that they need
	@scripts/system-packages $(TEST_PACKAGES) $(ELF_PACKAGES)
	$(PYTEST) $(TESTS) -m "not slow" $(PARALLEL) $(PYTEST_ARGUMENTS)

# One after another: Python's and Ruby's own tests look at the clock.
test-all: setup-dev ## the tests that take their time, too
	@scripts/system-packages $(TEST_PACKAGES) $(ELF_PACKAGES)
	$(PYTEST) $(TESTS) $(PYTEST_ARGUMENTS)

test-kill: setup-dev ## builds killed at 500 random moments (BUNDLE_KILLS, BUNDLE_SEED)
	BUNDLE_KILLS=$${BUNDLE_KILLS:-500} $(PYTEST) tests/integration/test_kill.py $(PYTEST_ARGUMENTS)

test-elf: setup-dev ## patch, run and judge every ELF file of a root of locked packages (about an hour)
	@scripts/system-packages $(TEST_PACKAGES) $(ELF_PACKAGES)
	BUNDLE_CORPUS_STEP=$${BUNDLE_CORPUS_STEP:-1} BUNDLE_CORPUS_ROOT=$$($(PYTHON) tests/elf/corpus_root.py) \
		$(PYTEST) tests/elf/test_corpus.py tests/elf/test_languages.py $(PYTEST_ARGUMENTS)

fuzz-elf: setup-dev ## a million made ELF files that lie (BUNDLE_FUZZ_CASES, BUNDLE_FUZZ_SEED)
	$(PYTHON) tests/elf/fuzz.py --cases $${BUNDLE_FUZZ_CASES:-1000000} --seed $${BUNDLE_FUZZ_SEED:-1}

toolchain: setup-dev ## build the toolchain from source, and test it (hours from cold)
	@scripts/system-packages $(TEST_PACKAGES)
	.venv/bin/bundle build runtime toolchain --toolchain source
	BUNDLE_TOOLCHAIN=source $(PYTEST) tests/toolchain tests/integration/test_toolchain.py $(PYTEST_ARGUMENTS)

toolchain-suites: setup-dev ## gcc's and gas's own tests, on a toolchain (BUNDLE_TOOLCHAIN, BUNDLE_SUITES)
	@scripts/system-packages $(TEST_PACKAGES)
	$(PYTHON) tests/toolchain/suites.py $(BUNDLE_SUITES)

demo: setup ## build the bundle `shell`, and run its tools in an empty root
	@scripts/demo

bench: setup-dev ## benchmarks, as ratios
	$(PYTHON) -m tests.bench $(BENCH_ARGUMENTS)

requirements: setup-dev ## refresh the pins of both lock files
	@scripts/requirements

clean: ## remove what was made inside the checkout; the cache stays (`bundle gc` is for that)
	rm -rf .venv out .work build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
