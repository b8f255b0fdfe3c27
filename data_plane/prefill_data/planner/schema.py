"""The files a person writes: plan and profile, as msgspec structs that name what they expect.

Units are in the names: `bandwidth_gbps` is Gbit/s (10^9 bit), prices are integer millionths of the
currency (`micros`), lengths are tokens. Unknown fields are refused.
"""

import re
from typing import Any, Literal, TypeVar

import msgspec
import msgspec.inspect

from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.fleet import Form

T = TypeVar("T")


class Struct(msgspec.Struct, forbid_unknown_fields=True):
    """A file's object: a field that we do not know is refused."""


class TableCurveFile(Struct, tag="table", tag_field="kind"):
    """[tokens, value] pairs, at least two, tokens rising and values not falling."""

    points: list[tuple[float, float]]


class PolynomialCurveFile(Struct, tag="polynomial", tag_field="kind"):
    """c0 + c1 l + c2 l^2 ..., valid up to `last_tokens`; coefficients not negative."""

    coefficients: list[float]
    last_tokens: float


CurveFile = TableCurveFile | PolynomialCurveFile


class Calibration(Struct):
    """Which figures of a published table a curve was inverted from, so that they prove nothing."""

    table: str
    figures: list[str]


class ProfileFile(Struct):
    """One instance type under one model: what `prefill-cloud profile` writes.

    `state` bytes per codec, `none` is raw. `decode` is [batch, step seconds] pairs.
    """

    format: Literal[1]
    name: str
    model: str
    hardware: str
    source: str
    prefill: CurveFile
    state: dict[str, CurveFile]
    decode: list[tuple[int, float]] = []
    gpus_per_instance: int = 1
    price_micros_per_gpu_hour: int | None = None
    calibration: Calibration | None = None


class LogNormalWorkload(Struct, tag="lognormal", tag_field="kind"):
    """ln(tokens) ~ N(mu, sigma^2), truncated."""

    mu: float
    sigma: float
    min_tokens: float
    max_tokens: float
    output_tokens: float
    cache_hit_fraction: float = 0.0


class HistogramWorkload(Struct, tag="histogram", tag_field="kind"):
    """[tokens, weight] pairs."""

    points: list[tuple[float, float]]
    output_tokens: float
    cache_hit_fraction: float = 0.0


class TraceWorkload(Struct, tag="trace", tag_field="kind"):
    """JSON lines with input_length, output_length and hash_ids; plain or gzip.

    With `reuse` an infinite prefix cache holds every block seen before.
    """

    path: str
    block_tokens: int = 512
    reuse: bool = True


WorkloadFile = LogNormalWorkload | HistogramWorkload | TraceWorkload


class PrefillClusterFile(Struct):
    """A remote cluster that only prefills; `profile` is inline, shipped, or a file's path."""

    name: str
    profile: str
    instances: int
    egress_gbps: float
    region: str = ""
    price_micros_per_gpu_hour: int | None = None


class LocalClusterFile(Struct):
    """A cluster that decodes, and prefills what stays; `residency` lists allowed regions."""

    name: str
    profile: str
    instances: int
    region: str = ""
    share: float = 1.0
    workload: WorkloadFile | None = None
    residency: list[str] | None = None
    price_micros_per_gpu_hour: int | None = None


class LinkFile(Struct):
    """From a prefill cluster to a local one."""

    source: str
    target: str
    bandwidth_gbps: float
    rtt_ms: float
    price_micros_per_gb: int = 0


class SloFile(Struct):
    decode_tokens_per_second: float
    ttft_p90_seconds: float | None = None


class CodecFile(Struct):
    """Without a ratio the profile's measured curve of that name is used."""

    name: str = "none"
    state_ratio: float | None = None


class ExchangeFile(Struct):
    round_trips: int = 3
    chunk_tokens: int = 2048


class SearchFile(Struct):
    step_tokens: int = 100
    last_tokens: int | None = None


class PlanFile(Struct):
    """What `prefill-cloud plan FILE.yaml` reads."""

    name: str
    local_clusters: list[LocalClusterFile]
    slo: SloFile
    workload: WorkloadFile | None = None
    description: str = ""
    currency: str = "USD"
    prefill_clusters: list[PrefillClusterFile] = []
    links: list[LinkFile] = []
    profiles: dict[str, ProfileFile] = {}
    codec: CodecFile = msgspec.field(default_factory=CodecFile)
    form: Form = Form.EXPECTATION
    exchange: ExchangeFile = msgspec.field(default_factory=ExchangeFile)
    search: SearchFile = msgspec.field(default_factory=SearchFile)


def convert(document: Any, kind: type[T], source: str = "the file") -> T:
    """A parsed document as a struct; InvalidInputError names the field, or `source` when the whole
    is wrong, and what was expected."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `")
        field = place.rstrip("`").removeprefix("$").removeprefix(".")
        remedy = _unit_remedy(field, problem)
        if remedy is None:
            known = ", ".join(sorted(_fields_at(kind, field)))
            remedy = f"fields there: {known}" if known else "the planner's README has every field"
        raise InvalidInputError(field or source, problem, remedy) from error


def _unit_remedy(field: str, problem: str) -> str | None:
    """What to do about a number of the wrong unit or kind; None when it is no such mistake."""
    about = f"{field} {problem}".lower()
    if any(word in about for word in ("bandwidth", "egress", "gbit", "gbyte", "gb_per")):
        return "bandwidth_gbps and egress_gbps are numbers in Gbit/s; GB/s times 8 is Gbit/s"
    if "price" in about or "usd" in about:
        return "prices are whole millionths: 2.50 USD an hour is price_micros_per_gpu_hour: 2500000"
    if any(word in about for word in ("rtt", "_ms", "seconds")):
        return "times carry their unit in the field's name: rtt_ms, ttft_p90_seconds"
    return None


def _fields_at(kind: type[Any], place: str) -> set[str]:
    """The field names of the object that an error's path leads to, or that holds that value."""
    current, names = [msgspec.inspect.type_info(kind)], set[str]()
    steps = re.findall(r"\[[^]]*\]|[^.\[]+", place)
    for step in [*steps, ""]:
        structs = [s for each in current for s in _structs(each)]
        if structs:
            names = {f.encode_name for s in structs for f in s.fields}
        if step.startswith("["):
            current = [inner for each in current for inner in _items(each)]
        else:
            current = [f.type for s in structs for f in s.fields if f.encode_name == step]
    return names


def _structs(kind: msgspec.inspect.Type) -> list[msgspec.inspect.StructType]:
    if isinstance(kind, msgspec.inspect.UnionType):
        return [struct for each in kind.types for struct in _structs(each)]
    return [kind] if isinstance(kind, msgspec.inspect.StructType) else []


def _items(kind: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    if isinstance(kind, msgspec.inspect.ListType):
        return [kind.item_type]
    return [kind.value_type] if isinstance(kind, msgspec.inspect.DictType) else []
