"""The wheels carry their packages, and customers' packages need no server library and no torch."""

import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

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
    absent = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode != 0
