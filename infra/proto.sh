#!/bin/sh
# Writes the committed pb/ packages again from the .proto files (the no-diff test runs the same lines).
set -eu
cd "$(dirname "$0")/.."
PYTHON="$PWD/.venv/bin/python"
export PATH="$PWD/.venv/bin:$PATH"

generate() { # room, package, proto name
  OUT="$1/$2/pb"
  mkdir -p "$OUT"
  "$PYTHON" -m grpc_tools.protoc -I "$1/$2/proto" \
    --python_out="$OUT" --grpc_python_out="$OUT" --mypy_out="$OUT" "$1/$2/proto/$3.proto"
  # protoc writes absolute imports of top-level modules; ours live in a package.
  for file in "$OUT"/*_grpc.py; do
    sed "s/^import \([a-z_]*_pb2\) as/from $2.pb import \1 as/" "$file" >"$file.new" && mv "$file.new" "$file"
  done
  [ -e "$OUT/__init__.py" ] || : >"$OUT/__init__.py"
}

generate sdk prefill_wire prefill
generate control_plane prefill_fleet fleet
