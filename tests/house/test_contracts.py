"""Import contracts: the layers of the house, checked by the tool that `make check` runs."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(sys.executable).parent / "lint-imports"

BROKEN_HOUSE = """
[tool.importlinter]
root_packages = ["floor_below", "floor_above"]

[[tool.importlinter.contracts]]
name = "layers"
type = "layers"
layers = ["floor_above", "floor_below"]
"""


def lint_imports(folder, config, extra_path=""):
    environment = {**os.environ, "PYTHONPATH": extra_path} if extra_path else dict(os.environ)
    command = [str(SCRIPT), "--config", str(config), "--no-cache"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_contracts_hold(repository):
    done = lint_imports(repository.root, repository.root / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_checker_fires(tmp_path):
    for package, body in {"floor_above": "", "floor_below": "import floor_above\n"}.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(body, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(BROKEN_HOUSE, encoding="utf-8")
    done = lint_imports(tmp_path, tmp_path / "pyproject.toml", extra_path=str(tmp_path))
    assert done.returncode != 0
    assert "floor_below is not allowed to import floor_above" in done.stdout
