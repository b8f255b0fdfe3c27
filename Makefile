# Every target does its own set-up: `git clone`, then `make demo` or `make test`.
.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu nightly check up proto setup clean

BIN := .venv/bin
STAMP := .venv/.installed
TRITON := .venv/.triton
# Two test processes share two cores: one torch thread each keeps them from fighting.
TEST_WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: $(STAMP) ## A real long prompt prefilled in one process, decoded in another, token for token
	@$(BIN)/prefill-cloud demo $(ARGS)

test: $(STAMP) $(TRITON) ## The tests (every target sets itself up)
	@$(PYTEST) -q -m "not nightly" -n $(TEST_WORKERS) --dist loadfile $(ARGS)

test-gpu: $(STAMP) $(TRITON) ## The GPU kernels compiled and run on a CUDA device, bfloat16 too; says why where none is
	@PREFILL_TEST_DEVICE=cuda TRITON_INTERPRET=0 TRITON_DEFAULT_FP_FUSION=1 $(PYTEST) -q -rs tests/kernels/gpu $(ARGS)

nightly: $(STAMP) $(TRITON) ## The tests, and the long forms of the checks
	@$(PYTEST) -q -n $(TEST_WORKERS) --dist loadfile $(ARGS)

check: $(STAMP) ## Linters, formatting, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

up: $(STAMP) ## The platform on this machine (services, control plane, two datacenters) until Ctrl-C
	@$(BIN)/prefill-cloud up $(ARGS)

proto: $(STAMP) ## Write the committed pb/ packages again from the .proto files
	@sh infra/proto.sh

setup: $(STAMP) ## Only the set-up: .venv with pinned dependencies

$(STAMP): pyproject.toml constraints.txt infra/setup.sh
	@sh infra/setup.sh

# Only tests need it, and it unpacks to a gigabyte: the demo does without.
$(TRITON): $(STAMP) infra/triton.sh
	@sh infra/triton.sh

clean: ## Remove what the set-up and the tools wrote
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
