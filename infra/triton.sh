#!/bin/sh
# Puts Triton beside torch in .venv, for the tests of GPU kernels: without a GPU it interprets them.
# --no-deps, and not in constraints.txt: a CUDA build of torch comes with the Triton that it wants.
set -eu
cd "$(dirname "$0")/.."
VENV=.venv
VERSION=3.9.0

if ! "$VENV/bin/python" -c 'import triton' 2>/dev/null; then
  printf 'set-up: installing triton %s for the tests of GPU kernels\n' "$VERSION" >&2
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps --only-binary :all: \
    "triton==$VERSION" >>"$VENV/install.log" 2>&1 || {
    printf 'set-up: note: no triton %s (log: %s/install.log): tests of GPU kernels are skipped\n' "$VERSION" "$VENV" >&2
    exit 0
  }
fi
touch "$VENV/.triton"
