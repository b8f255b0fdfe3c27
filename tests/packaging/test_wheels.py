"""The wheels carry their packages, and customers' packages need no server library and no torch."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest
from prefill_kernels.pack import names

CARRIED = {
    ".": {
        "prefill_control",
        "prefill_migrations",
        "prefill_fleet",
        "prefill_data",
        "prefill_stack",
        "prefill_engine",
        "prefill_kernels",
        "prefill_cloud",
        "prefill_wire",
    },
    "kernels": {"prefill_engine", "prefill_kernels"},
    "sdk": {"prefill_cloud", "prefill_wire"},
}
HEAVY = ("torch", "transformers", "litestar", "sqlalchemy", "redis", "stripe")
BUILD_NEEDS = ["pyproject.toml", "README.md", "LICENSE"]
ROOMS = ("control_plane", "data_plane", "infra", "kernels", "migrations", "sdk")

IMPORT_AND_TELL = f"""
import sys
import prefill_cloud, prefill_wire, prefill_kernels.pack, prefill_engine
print([name for name in {HEAVY!r} if name in sys.modules])
"""

# Every codec there and back, as an SDK does it: the range of the bound, not only the import.
DECODE_EVERY_CODEC = """
import sys
import numpy as np
from prefill_cloud.intake import decode_payload
from prefill_kernels.pack import ElementType, codec, names
from prefill_wire.codecs import codec_by_name
from prefill_wire.tensors import Dtype, Layout, TensorKind, TensorSpec
spec = TensorSpec(0, TensorKind.RECURRENT, Dtype.FLOAT32, Layout.K_FIRST, (2, 64, 64), 0, 9, 0, 2)
block = np.random.default_rng(1).standard_normal(spec.shape, np.float32)
for name in names():
    coded, out = codec(name).encode(block, ElementType.FLOAT32), np.zeros_like(block)
    decode_payload(codec_by_name(name), coded.payload, spec, out)
    assert np.abs(out - block).max() <= coded.error_bound, name
print([name for name in ("torch", "transformers") if name in sys.modules], *names())
"""


@pytest.fixture(scope="module")
def checkout(request, tmp_path_factory):
    """A copy of what a build reads, so that nothing is written into the checkout."""
    root = request.config.rootpath
    copy = tmp_path_factory.mktemp("checkout")
    for name in BUILD_NEEDS:
        shutil.copy(root / name, copy / name)
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", "build")
        shutil.copytree(root / room, copy / room, ignore=ignored)
    return copy


def build_wheel(source, out):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(
        [*command, str(source)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def packages_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist() if name.endswith("/__init__.py")}
        typed = {name.split("/")[0] for name in archive.namelist() if name.endswith("/py.typed")}
    assert tops == typed
    return tops


@pytest.mark.parametrize("distribution", sorted(CARRIED))
def test_a_wheel_carries_its_packages(checkout, tmp_path, distribution):
    assert packages_in(build_wheel(checkout / distribution, tmp_path)) == CARRIED[distribution]


def test_customers_packages_import_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_AND_TELL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("native", ["on", "off"])
def test_every_codec_is_decoded_without_torch(native):
    environment = {**os.environ, "PREFILL_NATIVE": native}
    command = [sys.executable, "-c", DECODE_EVERY_CODEC]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[]", *names()]


def test_the_heavy_import_detector_fires():
    program = "import torch\n" + IMPORT_AND_TELL
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['torch']"


@pytest.mark.nightly
def test_customers_packages_install_alone(checkout, tmp_path):
    """`pip install ./kernels ./sdk` into a fresh venv imports without torch."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = [str(checkout / "kernels"), str(checkout / "sdk")]
    install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = subprocess.run(
        [str(python), "-c", IMPORT_AND_TELL], capture_output=True, text=True, check=False
    )
    assert told.stdout.strip() == "[]", told.stderr
    coded = subprocess.run(
        [str(python), "-c", DECODE_EVERY_CODEC], capture_output=True, text=True, check=False
    )
    assert coded.stdout.split() == ["[]", *names()], coded.stderr
    absent = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode != 0
