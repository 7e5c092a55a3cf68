# The only way in: every target uses the project's own .venv, made by `make setup`.

SHELL := bash
.SHELLFLAGS := -o pipefail -c
# The first that runs (a name on PATH may be an empty shim) and is new enough.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# On a machine with a GPU the default build is right. Without one, the CPU build saves gigabytes where pip is configured
# to find it.
TORCH ?= torch==2.13.0
STAMP := $(VENV)/.stamp-setup
NEWEST := .cache/newest
CHECKOV_VENV := .cache/checkov
CHECKOV_STAMP := $(CHECKOV_VENV)/.stamp-3.3.30
OVERLAYS := $(notdir $(wildcard deploy/kubernetes/overlays/*))
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) python3)
GPU_VERSION ?= 3.12
SITE := .run/site
PROTO_VENV := .cache/proto
PROTO_STAMP := $(PROTO_VENV)/.stamp-1.76.0
PROTO_FILES := $(wildcard protos/rstitch/v1/*.proto)
PIP := PYTHONUNBUFFERED=1 $(BIN)/python -m pip --disable-pip-version-check
# Beyond four, stacks of five processes each would wait for memory and for one another. What shares a stack or a file
# runs in one process.
# One more than there are cores: tests wait for processes, too.
CORES := $(shell getconf _NPROCESSORS_ONLN)
PARALLEL := -n $(shell echo $$(($(CORES) < 3 ? $(CORES) + 1 : 4))) --dist loadgroup --no-loadscope-reorder
TESTS := -m "not gpu and not soak" $(PARALLEL)
# What an environment has, but for ourselves, and for torch and what comes with its build.
FREEZE = $(1)/bin/python -m pip --disable-pip-version-check freeze --exclude-editable | grep -viE '^(torch|nvidia|cuda|rstitch)'
# Writes the stubs under a folder.
PROTOC = $(PROTO_VENV)/bin/python -W ignore -m grpc_tools.protoc -Iprotos --python_out=$(1) --pyi_out=$(1) \
	--grpc_python_out=$(1) $(PROTO_FILES)
# The folder itself goes onto the path, not rstitch alone: evals, training and the services are run from here.
EDITABLE = --config-settings editable_mode=compat -e '.[dev]'
# One line that grows instead of pages of names; what pip says beside that is shown only if it fails. The shell reads it,
# since some awks read a pipe to its end before they begin.
INSTALL = mkdir -p .cache && { $(PIP) install $(1) 2> .cache/setup.log | { n=0; while read -r line; do set -- $$line; case $$1 in \
	Downloading|Using) test $$1 = Using && shift; n=$$((n + 1)); printf '\r  %3d %-60.60s' $$n "$${2%%-[cp][py][0-9]*}";; \
	Installing) printf '\r      installing %60s\n' "";; esac; done; } || { cat .cache/setup.log >&2; exit 1; }; }

.DEFAULT_GOAL := help
.PHONY: help setup demo test audit examples conformance soak gpu gpu-wheels test-newest lock lint lint-kubernetes manifests format proto train-tiny train-router eval-tiny results bench bench-overhead latency-tiny calibrate-tiny up clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it

# torch comes first: packages that depend on it would otherwise choose its build.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "setup: no Python 3.11 or newer on PATH; install one, or name it: make setup PYTHON=..." >&2; exit 1; }
	@echo "setup 1/3: $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "setup: $(PYTHON) cannot make a virtual environment (Debian has it in python3-venv)" >&2; rm -rf $(VENV); exit 1; }
	@echo "setup 2/3: $(TORCH), the largest part"
	@$(call INSTALL,"$(TORCH)")
	@echo "setup 3/3: rstitch and its tools"
	@$(call INSTALL,-c constraints.txt $(EDITABLE))
	@touch $@
	@echo "setup: done. Next: make demo, make test, or $(BIN)/rstitch up"

demo: setup ## start the stack, ask three questions, stop (no root, no containers); locked: ARGS=--secure
	@$(BIN)/rstitch demo $(ARGS)

test: setup ## every test that needs no GPU, on up to four cores; one process: ARGS="-n 0"
	@$(BIN)/python -m pytest $(TESTS) $(ARGS)

audit: setup ## known faults in what we stand on, suspect code, and an SBOM in .run/audit; says what it cannot do offline
	@bash .ci/audit

examples: setup ## every program of examples/ before a stack of its own, in environments below .cache; some: ARGS="curl.sh"
	@$(BIN)/python -m evals.clients examples $(ARGS)

conformance: setup ## public suites before the gateway, in environments below .cache; some: ARGS="schemathesis"
	@$(BIN)/python -m evals.clients conformance $(ARGS)

soak: setup ## the tests that take a minute or more
	@$(BIN)/python -m pytest -m soak $(ARGS)

# An environment of its own, so that a bad release upstream never touches the one that works.
$(NEWEST)/bin/python: pyproject.toml
	@$(PYTHON) -m venv --clear $(NEWEST)
	@$@ -m pip --disable-pip-version-check install --quiet "$(TORCH)" && \
		$@ -m pip --disable-pip-version-check install --quiet $(EDITABLE) || { rm -rf $(NEWEST); exit 1; }

# A GPU machine often brings a torch of its own and no internet: then python3 is that machine's, and the wheels come along.
gpu: ## everything about one GPU in eight minutes: kernels, steps, answers, tests, laws; ARGS=--large for 14B and 32B
	@if test -n "$(WHEELS)"; then $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
		--target $(SITE) $(WHEELS)/*.whl; fi
	@$(if $(WHEELS),PYTHONPATH=$(abspath $(SITE))) $(GPU_PYTHON) -m evals.gpu $(ARGS)

gpu-wheels: setup ## fetch what a GPU machine lacks into .run/wheels, for another Python: GPU_VERSION=3.13
	@$(PIP) download --quiet --no-deps --only-binary=:all: --python-version $(GPU_VERSION) --implementation cp \
		$(foreach n,28 27 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
		--dest .run/wheels -c constraints.txt -r deploy/gpu/requirements.txt 2> .cache/wheels.log || { cat .cache/wheels.log >&2; exit 1; }
	@du -sh .run/wheels

test-newest: ## the tests with the newest releases that pyproject.toml allows; says what differs from constraints.txt
	@rm -rf $(NEWEST) && $(MAKE) --no-print-directory $(NEWEST)/bin/python
	@status=0; $(NEWEST)/bin/python -m pytest $(TESTS) $(ARGS) || status=$$?; \
		echo "newer than constraints.txt (<) here (>):"; \
		diff <(grep -v '^#' constraints.txt) <($(call FREEZE,$(NEWEST))) | grep '^[<>]' || echo "nothing"; exit $$status

lock: $(NEWEST)/bin/python ## write constraints.txt from the releases that `make test-newest` took
	@{ grep '^#' constraints.txt; $(call FREEZE,$(NEWEST)); } > .cache/constraints.txt && mv .cache/constraints.txt constraints.txt

lint: setup $(PROTO_STAMP) ## ruff, mypy, import rules, buf, stubs up to date
	@echo "ruff";         $(BIN)/ruff check --quiet .
	@echo "ruff format";  $(BIN)/ruff format --check --quiet .
	@echo "mypy";         $(BIN)/mypy --no-error-summary
	@echo "import rules"; $(BIN)/lint-imports --no-logo > .cache/lint-imports.txt || { cat .cache/lint-imports.txt; exit 1; }
	@echo "buf";          cd protos && ../$(BIN)/buf lint
	@echo "stubs";        rm -rf .cache/stubs && mkdir -p .cache/stubs && $(call PROTOC,.cache/stubs)
	@diff -r -x __pycache__ -x __init__.py .cache/stubs/rstitch/v1 rstitch/v1 || { echo "lint: the stubs are not those of protos/: make proto" >&2; exit 1; }

lint-kubernetes: $(CHECKOV_STAMP) ## checkov on every overlay of deploy/kubernetes, in an environment of its own; needs kubectl
	@mkdir -p .cache/kubernetes && for each in $(OVERLAYS); do \
		echo "checkov $$each"; kubectl kustomize deploy/kubernetes/overlays/$$each > .cache/kubernetes/$$each.yaml && \
		$(CHECKOV_VENV)/bin/checkov --config-file deploy/kubernetes/.checkov.yaml --skip-download \
			--file .cache/kubernetes/$$each.yaml || exit 1; done

# checkov wants releases of its own of much that we have.
$(CHECKOV_STAMP):
	@mkdir -p .cache
	@$(PYTHON) -m venv --clear $(CHECKOV_VENV)
	@$(CHECKOV_VENV)/bin/python -m pip --disable-pip-version-check install --quiet "checkov==3.3.30" \
		2> .cache/checkov.log || { cat .cache/checkov.log >&2; exit 1; }
	@touch $@

# kustomize reads nothing above its folders, and the operator's rules have a head: these are copies, which a test holds equal.
manifests: ## write what deploy/kubernetes has of other files of deploy/: the alerts, and Redis's users
	@{ printf '%s\n' "# deploy/prometheus/alerts.yml for the Prometheus operator; \`make manifests\` writes it." \
		"apiVersion: monitoring.coreos.com/v1" "kind: PrometheusRule" "metadata:" "  name: rstitch" "spec:"; \
		sed '/^#/d; s/^./  &/' deploy/prometheus/alerts.yml; } > deploy/kubernetes/components/prometheus-operator/alerts.yaml
	@cp deploy/redis-users.acl deploy/kubernetes/components/tls/users.acl

format: setup ## format and fix what can be fixed
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .
	@cd protos && ../$(BIN)/buf format -w

proto: $(PROTO_STAMP) ## generate the stubs from protos/
	@$(call PROTOC,.)

# Code of this version loads under protobuf 6 and 7; newer ones write code that refuses 6. It has an environment of its
# own because it wants protobuf 6.
$(PROTO_STAMP):
	@mkdir -p .cache
	@$(PYTHON) -m venv --clear $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip --disable-pip-version-check install --quiet "grpcio-tools==1.76.0" "setuptools<81" \
		2> .cache/proto.log || { cat .cache/proto.log >&2; exit 1; }
	@touch $@

train-tiny: setup ## train the tiny pair anew (about 80 minutes on two cores); other tiny models: ARGS="NAME ..."
	@$(BIN)/python -m training.tiny $(ARGS)

train-router: setup ## train the tiny pair's R-Stitch+ head (about an hour); writes models/heads/tiny
	@$(BIN)/rstitch train-head --task tiny --name tiny --target-loss 1% --features entropy --warm-answers 400000 \
		--warm-epochs 12 $(ARGS)

eval-tiny: setup ## the tiny pair over tau, one session at a time (`make results` measures everything)
	@$(BIN)/rstitch eval run --task tiny --out .run/eval/tiny.jsonl \
		--systems llm_only slm_only threshold:tau={0.001,0.005,0.01,0.02,0.05,0.1,0.2} $(ARGS)

results: setup ## measure every policy on the tiny pair anew (about an hour); writes the tables of docs/results/
	@bash runs/results.sh $(ARGS)

bench: setup ## speed beside `transformers`, paired, by sessions; ARGS=--write writes docs/results/performance.md
	@$(BIN)/python -m evals.bench $(ARGS)

bench-overhead: setup ## time per token and per switch spent outside the models
	@$(BIN)/python -m evals.bench overhead $(ARGS)

latency-tiny: setup ## the latency model of the tiny pair, checked on whole answers; ARGS=--write writes docs/latency_model.md
	@$(BIN)/python -m evals.latency check $(ARGS)

calibrate-tiny: setup ## how often a calibration's statement holds; ARGS=--write writes docs/calibration.md
	@$(BIN)/python -m evals.calibrate repeat $(ARGS)

up: setup ## Redis, both workers and the router on this machine, until Ctrl-C
	@$(BIN)/rstitch up $(ARGS)

clean: ## remove all that these targets made
	rm -rf $(VENV) .cache .run .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
