"""The committed pb/ packages are what the .proto files give today."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOS = {
    "sdk/prefill_wire": "prefill",
    "control_plane/prefill_fleet": "fleet",
}


def generate(package, name, out):
    """The lines of infra/proto.sh, written elsewhere."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    source = ROOT / package / "proto"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(source)]
        + [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy")]
        + [str(source / f"{name}.proto")],
        check=True,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    grpc = out / f"{name}_pb2_grpc.py"
    module = Path(package).name
    text = re.sub(
        r"^import ([a-z_]*_pb2) as", rf"from {module}.pb import \1 as", grpc.read_text(), flags=re.M
    )
    grpc.write_text(text)
    return {path.name: path.read_text() for path in sorted(out.glob("*.py*"))}


def differing(generated, committed):
    """Names of the files that are not the same text on both sides."""
    names = generated.keys() | committed.keys()
    return sorted(n for n in names if generated.get(n) != committed.get(n))


@pytest.mark.parametrize("package", PROTOS)
def test_committed_pb_is_what_the_proto_gives(package, tmp_path):
    generated = generate(package, PROTOS[package], tmp_path)
    folder = ROOT / package / "pb"
    committed = {p.name: p.read_text() for p in folder.glob("*.py*") if p.name != "__init__.py"}
    assert differing(generated, committed) == [], "run `make proto` and commit pb/"
    stale = dict(committed)
    name = f"{PROTOS[package]}_pb2.py"
    stale[name] = stale[name].replace("prefill", "prefi11", 1)
    assert differing(generated, stale) == [name]
