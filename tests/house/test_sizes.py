"""Sizes: a file or a function that outgrew the house is split, not excused."""

import ast

import pytest

FILE_LINES = 400
FILE_LINES_BY_FOLDER = {"kernels/": 700, "tests/": 500}
CONFTEST_LINES = 150
FUNCTION_LINES = 60
FUNCTION_LINES_KERNELS = 200
POSITIONAL_PARAMETERS = 5
# Kernels keep fla's signatures: q, k, v, g, beta, initial_state.
POSITIONAL_PARAMETERS_KERNELS = 8


def file_limit(name):
    if name.endswith("conftest.py"):
        return CONFTEST_LINES
    return next(
        (n for start, n in FILE_LINES_BY_FOLDER.items() if name.startswith(start)), FILE_LINES
    )


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def long_functions(name, tree):
    limit = (
        FUNCTION_LINES_KERNELS if name.startswith("kernels/prefill_kernels/") else FUNCTION_LINES
    )
    found = []
    for node in functions(tree):
        lines = node.end_lineno - node.lineno + 1
        if lines > limit:
            found.append(f"{name}:{node.lineno} {node.name} has {lines} lines (limit {limit})")
    return found


def is_option(argument):
    """Whether a parameter is an option of a command, given by name on the command line."""
    return argument.annotation is not None and "typer." in ast.unparse(argument.annotation)


def is_command(node, tree):
    """Whether `register` hands this function to typer: then its parameters are options."""
    return f"command()({node.name})" in ast.unparse(tree)


def wide_functions(name, tree):
    kernels = name.startswith("kernels/prefill_kernels/")
    limit = POSITIONAL_PARAMETERS_KERNELS if kernels else POSITIONAL_PARAMETERS
    found = []
    for node in functions(tree):
        if is_command(node, tree):
            continue
        arguments = node.args.posonlyargs + node.args.args
        positional = [a.arg for a in arguments if not is_option(a)]
        count = len([arg for arg in positional if arg not in ("self", "cls")])
        if count > limit:
            found.append(f"{name}:{node.lineno} {node.name} takes {count} positional parameters")
    return found


def test_files_keep_their_size(repository):
    found = []
    for path in repository.python():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = file_limit(repository.name(path))
        if lines > limit:
            found.append(f"{repository.name(path)} has {lines} lines (limit {limit})")
    assert not found, "\n".join(found)


def test_functions_keep_their_size(repository):
    found = [line for name, tree in repository.trees() for line in long_functions(name, tree)]
    assert not found, "\n".join(found)


def test_functions_take_few_positional_parameters(repository):
    rooms = ("control_plane", "data_plane", "infra", "kernels", "sdk")
    found = [line for name, tree in repository.trees(*rooms) for line in wide_functions(name, tree)]
    assert not found, "\n".join(found)


def test_readme_fits_on_a_screenful_or_three(repository):
    lines = (repository.root / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120


@pytest.mark.parametrize(("lines", "fires"), [(60, False), (61, True)])
def test_the_function_detector_fires(lines, fires):
    body = "\n".join(["    x = 1"] * (lines - 1))
    assert bool(long_functions("sdk/a.py", ast.parse(f"def f():\n{body}\n"))) is fires


@pytest.mark.parametrize(
    ("source", "fires"),
    [
        ("def f(a, b, c, d, e): ...", False),
        ("def f(self, a, b, c, d, e, *, g): ...", False),
        ("def f(a, b, c, d, e, g): ...", True),
        ("def f(a, b, c, d, e, g): ...\napp.command()(f)", False),
        ("def f(a, b, c, d, e, g): ...\napp.command()(h)", True),
    ],
)
def test_the_parameter_detector_fires(source, fires):
    assert bool(wide_functions("sdk/a.py", ast.parse(source))) is fires


def test_file_limits_follow_the_folder():
    limits = [
        file_limit(n) for n in ("sdk/a.py", "kernels/a.py", "tests/a.py", "tests/conftest.py")
    ]
    assert limits == [400, 700, 500, 150]
