"""Habits: no code-carrying formats, no swallowed errors, no float near money."""

import ast
import importlib

import pytest

CODE_CARRIERS = frozenset(
    {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
)
BANNED_CALLS = frozenset({"torch.load", "yaml.load", "eval", "exec", "pandas.read_pickle"})
BROAD = frozenset({"Exception", "BaseException"})
MONEY_SUFFIX = "_micros"
# What the REST schemas call an integer amount; a test holds these names to int.
INTEGER_NAMES = frozenset({"Amount", "Micros"})
ROOMS = ("control_plane", "data_plane", "infra", "kernels", "migrations", "sdk")


def code_carrying(tree):
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in CODE_CARRIERS]
        elif (
            isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in CODE_CARRIERS
        ):
            found.append(node.module)
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in BANNED_CALLS:
                found.append(ast.unparse(node.func))
            found += ["allow_pickle" for k in node.keywords if is_allow_pickle(k)]
    return found


def is_allow_pickle(keyword):
    return keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"


def is_broad(handler):
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(kind) in BROAD for kind in kinds)


def is_empty(body):
    idle = (ast.Pass, ast.Continue, ast.Break)
    return all(isinstance(s, idle) or is_constant(s) for s in body)


def is_constant(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def swallowed(tree):
    """Lines where a broad exception disappears without a word."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and is_broad(node):
            if node.type is None or is_empty(node.body):
                lines.append(node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            lines += [node.lineno for arg in node.args if ast.unparse(arg) in BROAD]
    return lines


def is_money(node):
    name = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "arg", None)
    return isinstance(name, str) and name.endswith(MONEY_SUFFIX)


def money_faults(tree):
    """Lines where money is declared as, turned into or divided to a float."""
    lines = []
    for node in ast.walk(tree):
        annotation = getattr(node, "annotation", None)
        target = node.target if isinstance(node, ast.AnnAssign) else node
        if annotation is not None and is_money(target):
            text = ast.unparse(annotation).strip("'\"")
            named = INTEGER_NAMES & set(text.replace("|", " ").split())
            lines += [node.lineno] if not (named or "int" in text) or "float" in text else []
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            lines += [node.lineno] if is_money(node.left) or is_money(node.right) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "float":
            lines += [node.lineno] if any(is_money(arg) for arg in node.args) else []
    return lines


@pytest.mark.parametrize("detector", [code_carrying, swallowed, money_faults])
def test_the_habit_is_kept(repository, detector):
    folders = ROOMS if detector is money_faults else (*ROOMS, "tests")
    trees = repository.trees(*folders)
    found = {name: detector(tree) for name, tree in trees if detector(tree)}
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=True)",
        "numpy.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_the_code_carrier_detector_fires(source):
    assert code_carrying(ast.parse(source))


@pytest.mark.parametrize(
    ("source", "fires"),
    [
        ("try: f()\nexcept: g()", True),
        ("try: f()\nexcept Exception: pass", True),
        ("try: f()\nexcept (OSError, BaseException): ...", True),
        ("with contextlib.suppress(Exception): f()", True),
        ("try: f()\nexcept KeyError: pass", False),
        ("try: f()\nexcept Exception as e: log(e)", False),
    ],
)
def test_the_swallow_detector_fires(source, fires):
    assert bool(swallowed(ast.parse(source))) is fires


def test_the_integer_names_are_integers():
    homes = [("Amount", "web"), ("Micros", "models"), ("Micros", "usage")]
    assert {name for name, _ in homes} == INTEGER_NAMES
    for name, noun in homes:
        module = importlib.import_module(f"prefill_control.{noun}.schemas")
        assert getattr(module, name).__origin__ is int


@pytest.mark.parametrize(
    ("source", "fires"),
    [
        ("price_micros: Amount | None = None", False),
        ("price_micros: Amounts = None", True),
        ("price_micros: float = 0", True),
        ("def f(amount_micros: Decimal): ...", True),
        ("x = amount_micros / 2", True),
        ("x = float(row.amount_micros)", True),
        ("price_micros: int | None = None", False),
        ("x = amount_micros * 3 // 2", False),
    ],
)
def test_the_money_detector_fires(source, fires):
    assert bool(money_faults(ast.parse(source))) is fires
