#!/bin/sh
# Makes .venv with every pinned dependency. Called by make when the stamp is missing or old.
set -eu
cd "$(dirname "$0")/.."
VENV=.venv
LOG="$VENV/install.log"

say() { printf '%s\n' "$*" >&2; }

find_python() {
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

PYTHON_FOUND=$(find_python) || {
  say "set-up: no Python >= 3.11 found (python3 is: $(python3 --version 2>&1 || true))."
  say "        Install one, or name it:  make PYTHON=/path/to/python3.12 demo"
  exit 1
}

# Debian splits venv's ensurepip into a package of its own.
if ! "$PYTHON_FOUND" -c 'import ensurepip, venv' 2>/dev/null; then
  VERSION=$("$PYTHON_FOUND" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "set-up: installing the Debian package python$VERSION-venv"
    apt-get update -qq >/dev/null && apt-get install -y -qq "python$VERSION-venv" >/dev/null
  else
    say "set-up: $PYTHON_FOUND has no venv module. On Debian: apt-get install python$VERSION-venv"
    exit 1
  fi
fi

# A moved checkout or a removed Python leaves a .venv that cannot run: make it anew.
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
  say "set-up: making $VENV with $("$PYTHON_FOUND" --version)"
  "$PYTHON_FOUND" -m venv --clear "$VENV"
fi

if [ "$(uname -s)" = Linux ] && [ -z "${PIP_EXTRA_INDEX_URL:-}" ] &&
  ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
  say "set-up: note: on Linux an index may serve torch with CUDA (gigabytes). The CPU build is enough:"
  say "        name PyTorch's CPU index in PIP_EXTRA_INDEX_URL before make to get the small one."
fi

install() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input \
    --constraint constraints.txt "$@" >>"$LOG" 2>&1 || touch "$VENV/.failed"
}

progress() { # one line, rewritten, while the log grows; one line in all when nobody watches
  while [ -e "$VENV/.installing" ]; do
    if [ -t 2 ]; then
      COUNT=$(grep -c '^Collecting\|^Requirement already' "$LOG" || true)
      LAST=$(sed -n 's/^\(Collecting\|Installing collected packages\)[: ]*\([^ (]*\).*/\2/p' "$LOG" | tail -1)
      printf '\r\033[K        %s packages resolved; %s' "$COUNT" "$LAST" >&2
    fi
    sleep 1
  done
}

say "set-up: installing the pinned dependencies (log: $LOG)"
: >"$LOG"
rm -f "$VENV/.failed"
touch "$VENV/.installing"
trap 'rm -f "$VENV/.installing"' EXIT
progress &
install hatchling editables
[ -e "$VENV/.failed" ] || install --no-build-isolation --editable '.[dev]'
rm -f "$VENV/.installing"
wait
[ -t 2 ] && printf '\r\033[K' >&2
if [ -e "$VENV/.failed" ]; then
  tail -15 "$LOG" >&2
  say "set-up: pip failed; the whole log is in $LOG. Behind a proxy or mirror, pip's own PIP_* variables work."
  exit 1
fi
# Compiled now, a first prefill does not wait for it; without a compiler nothing is lost but speed.
"$VENV/bin/python" -m prefill_kernels.native >>"$LOG" 2>&1 || true
touch "$VENV/.installed"
say "set-up: ready"
