"""From measurements of a live worker to a profile file: medians, made monotone, validated. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from prefill_data.planner import schema
from prefill_data.planner.build import hardware
from prefill_data.planner.errors import InvalidInputError, MissingProfilePointError

RAW = "none"


@dataclass(frozen=True)
class PrefillSample:
    """One prefill: `state_bytes` of its state by codec, `none` is raw."""

    tokens: int
    cached_tokens: int
    prefill_us: int
    state_bytes: Mapping[str, int]


@dataclass(frozen=True)
class DecodeSample:
    """One step of so many sequences together."""

    batch: int
    step_us: int


@dataclass(frozen=True)
class Measured:
    """What was measured, and how, in words; prices are a person's to give."""

    name: str
    model: str
    hardware: str
    source: str
    gpus_per_instance: int = 1
    price_micros_per_gpu_hour: int | None = None


def profile_document(
    machine: Measured, prefills: Sequence[PrefillSample], decodes: Sequence[DecodeSample]
) -> dict[str, Any]:
    """The profile as the planner reads it, proven by reading it.

    Raises MissingProfilePointError for fewer than two lengths, InvalidInputError for a sample that
    a prefix cache shortened or that lacks a codec others have.
    """
    _check(prefills)
    codecs = [RAW, *sorted({name for s in prefills for name in s.state_bytes} - {RAW})]
    prefill, pooled = _curve((s.tokens, s.prefill_us * 1e-6) for s in prefills)
    states = {c: _curve((s.tokens, float(s.state_bytes[c])) for s in prefills)[0] for c in codecs}
    steps, pooled_steps = _curve((d.batch, d.step_us * 1e-6) for d in decodes)
    source = machine.source
    if pooled + pooled_steps:
        source += f" {pooled + pooled_steps} points fell with length and were pooled with theirs."
    document: dict[str, Any] = {
        "format": 1,
        "name": machine.name,
        "model": machine.model,
        "hardware": machine.hardware,
        "gpus_per_instance": machine.gpus_per_instance,
        "source": source,
        "prefill": {"kind": "table", "points": prefill},
        "state": {codec: {"kind": "table", "points": points} for codec, points in states.items()},
        "decode": steps,
    }
    if machine.price_micros_per_gpu_hour is not None:
        document["price_micros_per_gpu_hour"] = machine.price_micros_per_gpu_hour
    hardware(schema.convert(document, schema.ProfileFile))
    return document


def rising(values: Sequence[float]) -> tuple[list[float], int]:
    """The nearest values that do not fall (least squares), and how many were moved.

    Neighbours that fall become their mean: pool adjacent violators.
    """
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (mean * size + before * count) / (size + count), size + count
        blocks.append((mean, size))
    pooled = [mean for mean, size in blocks for _ in range(size)]
    return pooled, sum(new != old for new, old in zip(pooled, values, strict=True))


def _curve(samples: Iterable[tuple[int, float]]) -> tuple[list[list[float]], int]:
    """[place, median] pairs in order, made monotone; and how many points that moved."""
    found: dict[int, list[float]] = {}
    for place, value in samples:
        found.setdefault(place, []).append(value)
    places = sorted(found)
    values, moved = rising([float(median(found[place])) for place in places])
    return [[place, round(value, 6)] for place, value in zip(places, values, strict=True)], moved


def _check(prefills: Sequence[PrefillSample]) -> None:
    lengths = {sample.tokens for sample in prefills}
    if len(lengths) < 2:
        raise MissingProfilePointError(
            "prefill",
            f"{len(lengths)} prompt lengths were measured, a profile needs at least 2",
            "measure the shortest and the longest prompt of the workload",
        )
    for sample in prefills:
        if sample.cached_tokens:
            raise InvalidInputError(
                "prefill",
                f"{sample.cached_tokens} of {sample.tokens} tokens came from the prefix cache",
                "measure with prompts that the worker has not seen: another --seed",
            )
        if set(sample.state_bytes) != set(prefills[0].state_bytes) or RAW not in sample.state_bytes:
            raise InvalidInputError(
                "state",
                f"codecs {sorted(sample.state_bytes)} at {sample.tokens} tokens",
                "measure raw bytes (`none`) and the same codecs at every length",
            )
