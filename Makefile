# SPDX-License-Identifier: MIT
# Everything that people and CI do with this project, one word each: `make help`.
#
# `make run` and `make test` work from a fresh checkout: they set up a virtual environment in .venv,
# build what is to be built, and install missing system packages where they can (root on Debian).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

EXTENSION_SOURCES := $(filter-out %/_kvm.c,$(wildcard pyvmm/hosts/kvm/*.c pyvmm/hosts/kvm/*.h)) \
	pyvmm/hosts/kvm/build_extension.py
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools

export VENV
# Compiled once, not in every run and in each of the processes that tests start.
unexport PYTHONDONTWRITEBYTECODE
# Tests are shared out, a module as a whole, among one process per core; ARGS=-n0 is without.
SHARED_OUT := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# LAB=no: without the lab, whether there is a kernel for it or not.
export PYVMM_TEST_LAB := $(LAB)
# By the interpreter: pip's scripts begin with its path, which may have anything in it.
PYVMM := $(BIN)/python -m pyvmm
PYTEST := $(BIN)/python -m pytest $(SHARED_OUT)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(INSTALLED) guests ## set up what is needed and boot the bundled guest on /dev/kvm (ARGS=...)
	@$(PYVMM) run guest.img $(ARGS)

.PHONY: test
test: $(TOOLS) guests ## set up what is needed, the lab's kernel included, and run every test (ARGS=... for pytest; LAB=no)
	@./setup-system test
ifneq ($(LAB),no)
	@$(PYVMM) lab build || true
endif
	$(PYTEST) $(ARGS)

.PHONY: check
check: $(TOOLS) guests ## a look into everything, QEMU and the lab where they are: minutes
	$(PYTEST) -q --hypothesis-profile=check --selection=check $(ARGS)

.PHONY: quick
quick: $(TOOLS) guests ## the fast part of the tests: about 23 s
	@./setup-system quick
	$(PYTEST) -q --hypothesis-profile=quick --selection=quick $(ARGS)

.PHONY: lint
lint: $(TOOLS) warnings ## ruff, mypy, and the C compiler's warnings as errors
	$(BIN)/ruff check .
	$(BIN)/ruff check -q --preview --select CPY001 .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

# Into folders of their own: what is installed and run is left alone.
.PHONY: warnings
warnings: export PYVMM_WERROR := 1
warnings: $(patsubst pyvmm/hosts/kvm/%.c,build/strict/%.o,$(filter %.c,$(EXTENSION_SOURCES)))
	@$(MAKE) -s -C guest OUT=build/strict
	@$(MAKE) -s -C firmware OUT=build/strict
	@$(MAKE) -s -C pyvmm/lab/guest OUT=build/strict/init

build/strict/%.o: pyvmm/hosts/kvm/%.c $(EXTENSION_SOURCES) | $(INSTALLED)
	@mkdir -p $(@D)
	@$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror -fPIC -c $< -o $@

.PHONY: format
format: $(TOOLS) ## lay the Python code out as `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: blocking
blocking: OBJECTS := pyvmm/machine/blocking_objects.py
blocking: VM := pyvmm/testing/blocking_vm.py
blocking: VM_TESTS := tests/testing/test_blocking_vm.py
blocking: TESTS := tests/machine/test_open_blocking_machine.py
blocking: $(TOOLS) ## make the blocking twins of a machine's objects, and of their tests, again
	$(BIN)/python -m pyvmm.machine.generate_blocking >$(OBJECTS).new && mv $(OBJECTS).new $(OBJECTS)
	$(BIN)/python -m pyvmm.testing.generate_blocking >$(VM).new && mv $(VM).new $(VM)
	$(BIN)/python -m tests.machine.generate_blocking_tests >$(TESTS).new && mv $(TESTS).new $(TESTS)
	$(BIN)/python -m tests.testing.generate_blocking_tests >$(VM_TESTS).new && mv $(VM_TESTS).new $(VM_TESTS)
	$(BIN)/ruff format -q $(OBJECTS) $(VM) $(TESTS) $(VM_TESTS)

.PHONY: screenshots
screenshots: $(TOOLS) guests ## the README's pictures of the demo, made by the demo
	@./setup-system browser
	$(BIN)/python -m tests.demo.pictures docs/pictures

.PHONY: bench
bench: $(TOOLS) guests ## the benchmarks, as ratios against C and QEMU measured in the same run
	@./setup-system bench
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: differential
differential: $(TOOLS) ## N random sequences of memory operations on /dev/kvm and on the model (N=20000)
	PYVMM_DIFFERENTIAL_SEED=$(or $(SEED),0) PYVMM_DIFFERENTIAL=$(or $(N),20000) $(BIN)/python -m pytest -q -s tests/differential $(ARGS)

.PHONY: test-oldest
test-oldest: guests ## the tests with the oldest versions of every dependency that we claim to work with
	@./setup-system test
	@$(MAKE) -s VENV=.venv-oldest CONSTRAINTS=tests/oldest.txt .venv-oldest/.tools
	.venv-oldest/bin/python -m pytest $(SHARED_OUT) $(ARGS)

.PHONY: lab-kernel
lab-kernel: $(INSTALLED) ## build the lab's kernel, unless it is there (ARGS="--kernel 6.12": the older one)
	$(PYVMM) lab build $(ARGS)

.PHONY: guests
guests: ## build the guest images, the firmware and the lab's first process
	@./setup-system build
	@$(MAKE) -s -C guest
	@$(MAKE) -s -C firmware
	@$(MAKE) -s -C pyvmm/lab/guest

.PHONY: clean
clean: ## remove everything that was built, the virtual environments included
	$(MAKE) -s -C guest clean
	$(MAKE) -s -C firmware clean
	$(MAKE) -s -C pyvmm/lab/guest clean
	rm -rf .venv .venv-oldest build dist *.egg-info pyvmm/hosts/kvm/_kvm.c pyvmm/hosts/kvm/*.so

$(INSTALLED): pyproject.toml setup.py $(EXTENSION_SOURCES) $(CONSTRAINTS) setup-system
	@./setup-system build
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pyvmm into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) \
		-e .
	@touch $@

$(TOOLS): $(INSTALLED)
	@echo "installing the test tools into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) \
		-e '.[test$(if $(CONSTRAINTS),,$(comma)lint)]'
	@touch $@

comma := ,
