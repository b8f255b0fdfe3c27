"""Files: plans, profiles and traces from disk or from what this package ships. The only I/O."""

import gzip
import json
from importlib import resources
from pathlib import Path
from typing import Any

from prefill_data.planner import schema
from prefill_data.planner.build import build
from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.fleet import Scenario
from prefill_data.planner.lengths import Lengths
from prefill_data.planner.trace import TraceRequest, trace_lengths

PACKAGE = "prefill_data.planner"


def load_plan(path: Path) -> tuple[schema.PlanFile, Scenario]:
    """A plan file and its scenario; profile and trace paths are relative to the file."""
    plan = schema.convert(_yaml(_text(path), str(path)), schema.PlanFile, str(path))
    return plan, scenario_of(plan, path.parent)


def load_case(name: str) -> tuple[schema.PlanFile, Scenario]:
    """A shipped example. Raises InvalidInputError that names the known ones."""
    plan = schema.convert(_yaml(_shipped("cases", name), name), schema.PlanFile)
    return plan, scenario_of(plan, Path())


def scenario_of(plan: schema.PlanFile, folder: Path) -> Scenario:
    """The scenario of a plan whose relative paths start in this folder."""
    return build(
        plan,
        lambda name: load_profile(name, folder),
        lambda workload: load_trace(folder / workload.path, workload),
    )


def load_profile(name: str, folder: Path) -> schema.ProfileFile:
    """A profile by path when the name ends in .yaml, else a shipped one."""
    if name.endswith((".yaml", ".yml")):
        return schema.convert(_yaml(_text(folder / name), name), schema.ProfileFile, name)
    return schema.convert(_yaml(_shipped("profiles", name), name), schema.ProfileFile)


def shipped(kind: str) -> list[str]:
    """Names of the shipped `profiles` or `cases`."""
    folder = resources.files(PACKAGE) / kind
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_trace(path: Path) -> list[TraceRequest]:
    """Requests of a JSON-lines trace (gzip if it ends in .gz). InvalidInputError names the line."""
    opened = gzip.open if path.suffix == ".gz" else open
    requests = []
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    requests.append(_request(line, f"{path.name} line {number}"))
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise InvalidInputError(
            path.name, f"unreadable: {error}", "JSON lines in UTF-8, gzip only with .gz"
        ) from error
    return requests


def load_trace(path: Path, workload: schema.TraceWorkload) -> Lengths:
    """A trace's uncached lengths."""
    return trace_lengths(read_trace(path), workload.block_tokens, reuse=workload.reuse)


def _request(line: str, place: str) -> TraceRequest:
    try:
        record = json.loads(line)
        request = TraceRequest(
            int(record["input_length"]),
            int(record["output_length"]),
            tuple(int(block) for block in record.get("hash_ids", ())),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            place, f"{error!r}", "a JSON object with input_length, output_length and hash_ids"
        ) from error
    if request.input_tokens < 1 or request.output_tokens < 0:
        raise InvalidInputError(
            place, "input_length below 1 or output_length below 0", "drop empty requests"
        )
    return request


def _shipped(kind: str, name: str) -> str:
    known = shipped(kind)
    if name not in known:
        raise InvalidInputError(
            kind.removesuffix("s"), f"{name!r} is not shipped", f"known: {', '.join(known)}"
        )
    return (resources.files(PACKAGE) / kind / f"{name}.yaml").read_text(encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(path.name, f"not UTF-8: {error}", "save it as UTF-8") from error


def _yaml(text: str, place: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(
            place, f"not YAML: {_in_one_line(error)}", "check indentation and colons"
        ) from error


def _in_one_line(error: Exception) -> str:
    """A parser's complaint without the lines of the file that it quotes."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
