# Everything a newcomer needs: `make demo` and `make test` do all set-up themselves, in .venv.

PYTHON ?= python3
VENV   ?= .venv
VISION ?= .venv-vision
TRAINERS ?= .venv-trainers
RAY ?= .venv-ray
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# TORCH=cpu takes torch's CPU build (about 0.7 GB installed) instead of PyPI's default, a CUDA build of several GB.
INDEX  := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
APT    := apt-get install -y python3 python3-venv make g++
JOBS   ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -le 4 ] && echo $$n || echo 4)
NATIVE := $(shell find csrc -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name 'CMakeLists.txt' 2>/dev/null)

.PHONY: help demo test test-changed test-fast test-cross cross-native test-grpcio lint types native-tests conformance conformance-vision conformance-checkpoints sanitize ulp fuzz flips soak loads schemathesis bench bench-compression gauntlet check-tools clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.native  ## train a classifier with two processes, compile its checkpoint, compare every way to run it
	$(BIN)/maas-rt demo

test: lint types native-tests cross-native $(RAY)/.installed  ## lint, types, C++ tests, then the whole suite, in JOBS processes (one a core, 4 at most)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

# What a test runs of Python is recorded while it runs, function by function; of C++ it is not.
test-changed: build/.kernels-tested  ## the tests that a change since the last run can reach, for while you work; the first run records them all
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --testmon

build/.kernels-tested: $(NATIVE) | $(VENV)/.native native-tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder tests/kernels tests/native tests/capi
	touch $@

test-fast: $(VENV)/.native  ## the quick part of the suite: no torch, no TVM
	$(BIN)/python -m pytest -q tests/unit tests/native tests/capi tests/kernels

# The library for AArch64, where there is a compiler for it: its tests run under qemu, in a sample by `make test`.
CROSS     := build/aarch64/maas_rt_remote
CROSS_APT := qemu-user-static g++-aarch64-linux-gnu
cross-native: | $(VENV)/.installed
	@if command -v aarch64-linux-gnu-g++ >/dev/null; then $(MAKE) $(CROSS); fi

$(CROSS): $(NATIVE) csrc/tools/remote.c csrc/cmake/aarch64.cmake | $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/aarch64 -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/aarch64 --target maas_rt_remote
	touch $@

test-cross: $(VENV)/.native  ## CPUs that this machine is not, under qemu: all kernels on three AArch64 CPUs, the models of bench/ (half an hour); as root installs what it needs
	@command -v qemu-aarch64-static >/dev/null && command -v qemu-x86_64-static >/dev/null && command -v aarch64-linux-gnu-g++ >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -q -y $(CROSS_APT); \
	  else echo "test-cross needs qemu-user and a cross compiler. On Debian or Ubuntu: sudo apt-get install -y $(CROSS_APT)"; exit 1; fi; }
	$(MAKE) $(CROSS)
	MAAS_RT_CROSS=full $(BIN)/python -m pytest -q -rs -n $(JOBS) tests/cross

# The service stands on classes of grpcio that are not documented.
GRPCIO := $(shell sed -n 's/.*"grpcio>=\([0-9.]*\)".*/\1/p' pyproject.toml)
test-grpcio: $(VENV)/.native  ## the service over gRPC with the oldest grpcio that it allows
	$(PIP) install -q --no-deps --upgrade --target build/grpcio-$(GRPCIO) 'grpcio==$(GRPCIO).*'
	PYTHONPATH=build/grpcio-$(GRPCIO) $(BIN)/python -m pytest -q tests/service/test_grpc.py tests/service/test_grpc_direct.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z 'csrc/*.cc' 'csrc/*.h' 'csrc/*.c' | xargs -0 $(BIN)/clang-format --dry-run --Werror

types: $(VENV)/.native
	rm -rf build/types && mkdir -p build/types/maas_rt
	for entry in maas_rt/*; do ln -s "$(CURDIR)/$$entry" build/types/maas_rt/; done
	ln -s "$(CURDIR)/compiler" build/types/maas_rt/compiler
	cd build/types && "$(CURDIR)/$(BIN)/mypy" --strict --config-file "$(CURDIR)/pyproject.toml" -p maas_rt

native-tests: $(VENV)/.native  ## the C++ tests (ctest)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/editable -DMAAS_RT_BUILD_TESTS=ON >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/editable
	cd build/editable && "$(CURDIR)/$(BIN)/ctest" --output-on-failure

conformance: $(VENV)/.native  ## other people's suites: prints the counts, writes tests/conformance/results
	$(PIP) install -q -c constraints.txt transformers
	$(BIN)/python -m tests.conformance onnx
	$(BIN)/python -m tests.conformance torch_export
	$(BIN)/python -m tests.conformance transformers
	$(BIN)/python -m tests.conformance contrib
	$(BIN)/python -m tests.conformance torch_opinfo
	$(MAKE) conformance-checkpoints
	$(MAKE) conformance-vision
	$(BIN)/python -m tests.conformance table

conformance-vision: $(VISION)/.installed  ## torchvision and timm, in an environment of their own (torch with torchvision: 5 GB)
	$(VISION)/bin/python -m tests.conformance torchvision
	$(VISION)/bin/python -m tests.conformance timm

conformance-checkpoints: $(TRAINERS)/.installed  ## what training tools leave, in an environment of their own (0.5 GB)
	$(TRAINERS)/bin/python -m tests.conformance checkpoints

SANITIZED := build/sanitize-address
sanitize: $(VENV)/.native  ## the C++ tests under the address, undefined and thread sanitizers, and every kernel under the first two
	for kind in address,undefined thread; do \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/sanitize-$${kind%%,*} -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DMAAS_RT_BUILD_TESTS=ON -DMAAS_RT_SANITIZE=$$kind -DMAAS_RT_BUILD_PYTHON=$$([ $$kind = thread ] && echo OFF || echo ON) \
	    -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" >/dev/null && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize-$${kind%%,*} && \
	  (cd build/sanitize-$${kind%%,*} && "$(CURDIR)/$(BIN)/ctest" --output-on-failure) || exit 1; \
	done
	rm -rf $(SANITIZED)/package && mkdir $(SANITIZED)/package && cp -rL maas_rt $(SANITIZED)/package
	cp $(SANITIZED)/libmaas_rt.so $(SANITIZED)/_native*.so $(SANITIZED)/package/maas_rt
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(BIN)/python -m pytest -q -o "pythonpath=$(SANITIZED)/package ." tests/kernels tests/native

ulp: $(VENV)/.native  ## worst errors of every function of a number, densely; writes docs/accuracy.md
	$(BIN)/python -m tests.accuracy

fuzz: $(VENV)/.native  ## mutated files against the runtime and mutated requests against the service's reader of tensors, under sanitizers, and mutated ONNX models against the importer, whole compiles of such and of drawn torch modules, FUZZ_SECONDS (60) each
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMAAS_RT_FUZZ=ON \
	  -DMAAS_RT_SANITIZE=address,undefined >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/fuzz --target fuzz_artifact fuzz_json
	$$(find build/fuzz -name fuzz_artifact -type f) $(or $(FUZZ_SECONDS),60) $$(date +%s)
	$$(find build/fuzz -name fuzz_json -type f) $(or $(FUZZ_SECONDS),60) $$(date +%s)
	$(PIP) install -q -c constraints.txt atheris
	$(BIN)/python -m tests.fuzz_onnx $(or $(FUZZ_SECONDS),60)
	$(BIN)/python -m tests.fuzz_compile $(or $(FUZZ_SECONDS),60)

flips: $(VENV)/.native  ## every single-bit flip of a signed and encrypted file, with real keys (half an hour of CPU or more)
	$(BIN)/python -m tests.flips $(JOBS)

soak: $(VENV)/.native  ## the service under load for minutes: overload, reloads, its end, memory over requests of random sizes
	$(BIN)/python -m tests.soak

loads: $(VENV)/.native  ## memory of the service over 1,000 loads and unloads of a model
	$(BIN)/python -m tests.service.loads 1000

schemathesis: $(VENV)/.native  ## CASES (2,000) requests drawn from the service's OpenAPI page, and answers that are not as it says
	$(BIN)/python -m tests.openapi $(or $(CASES),2000)

bench: $(VENV)/.native  ## latency beside ONNX Runtime and eager torch; writes JSON
	$(BIN)/python -m bench.latency

bench-compression: $(VENV)/.native  ## accuracy, size, memory and latency of compressed models beside NNCF with OpenVINO and ONNX Runtime (an hour; trains its nets first); writes JSON
	$(BIN)/python -m bench.compression --resume

gauntlet: $(VENV)/.native  ## every model against every peer (about 80 minutes, and half an hour to prepare the first time); writes JSON and docs/gauntlet.svg
	$(BIN)/python -m bench.gauntlet
	$(BIN)/python -m bench.plot gauntlet

check-tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  && { command -v c++ || command -v g++ || command -v clang++; } >/dev/null && { command -v cc || command -v gcc || command -v clang; } >/dev/null \
	  || { echo "maas_rt needs Python 3.10 or newer with venv, make and a C++ compiler. On Debian or Ubuntu: sudo $(APT)"; exit 1; }

$(VENV)/.installed: pyproject.toml setup.py constraints.txt | check-tools
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt $(INDEX) setuptools wheel cmake ninja pybind11
	$(PIP) install -q -c constraints.txt $(INDEX) --no-build-isolation -e '.[dev]'
	touch $(VENV)/.installed $(VENV)/.native

$(VENV)/.native: $(NATIVE) $(VENV)/.installed
	$(PIP) install -q --no-deps --no-build-isolation -e .
	touch $(VENV)/.native

# Behind its own packages such an environment sees those of the main one, the project among them: nothing is built twice.
define beside_the_main_environment
	test -x $(1)/bin/python || $(BIN)/python -m venv $(1)
	main=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  own=$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  echo "import site; site.addsitedir(\"$$main\")" > "$$own/main-environment.pth"
endef

$(VISION)/.installed: tests/conformance/vision-requirements.txt | $(VENV)/.native
	$(call beside_the_main_environment,$(VISION))
	$(VISION)/bin/python -m pip --disable-pip-version-check install -q $(INDEX) -r tests/conformance/vision-requirements.txt
	touch $@

$(TRAINERS)/.installed: tests/conformance/trainers-requirements.txt | $(VENV)/.native
	$(call beside_the_main_environment,$(TRAINERS))
	$(TRAINERS)/bin/python -m pip --disable-pip-version-check install -q --no-build-isolation -r tests/conformance/trainers-requirements.txt
	touch $@

$(RAY)/.installed: tests/packaging/ray-requirements.txt | $(VENV)/.native
	$(call beside_the_main_environment,$(RAY))
	$(RAY)/bin/python -m pip --disable-pip-version-check install -q -r tests/packaging/ray-requirements.txt
	touch $@

clean:  ## remove what was built, and the environments
	rm -rf build dist $(VENV) $(VISION) $(TRAINERS) $(RAY) maas_rt/*.so maas_rt/_plan_records.py
