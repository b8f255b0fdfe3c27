"""Measuring a live worker: prefills through the SDK, states under every codec, decode steps here.

Everything that takes time or chance is handed in or seeded; `profile.py` is the command around it.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prefill_stack.commands.access import open_client
from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from prefill_cloud import PrefilledState
    from prefill_cloud.models import ServedModel
    from prefill_data.planner.measured import DecodeSample, PrefillSample
    from prefill_engine.engine import StepEngine

    from prefill_stack.local_cloud import Credentials

    Prefill = Callable[[np.ndarray], Awaitable[PrefilledState]]

SHORTEST_TOKENS = 256
LENGTHS = 5
DECODE_CONTEXT_TOKENS = 1024
UNCODED = "raw"  # the receipt has those bytes already


@dataclass(frozen=True)
class Protocol:
    """What is measured: lengths in tokens, each `repeats` times, after one that is not counted."""

    lengths: tuple[int, ...]
    repeats: int
    batches: tuple[int, ...]
    decode_steps: int = 16
    seed: int = 1
    deadline_seconds: float = 300.0


def lengths_up_to(longest: int) -> tuple[int, ...]:
    """A few lengths in equal ratios from SHORTEST_TOKENS (or the longest itself) to the longest."""
    first = min(SHORTEST_TOKENS, max(1, longest // 2))
    return tuple(dict.fromkeys(round(v) for v in np.geomspace(first, longest, LENGTHS)))


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """`1024,4096` as numbers; NotConfigured names the option."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise NotConfigured(f"{option} {text!r} is no list of numbers", "example: 256,1024,4096")
    return found


def prompts(vocab_size: int, protocol: Protocol) -> Iterator[np.ndarray]:
    """Random prompts of length + 1 (a state covers all but the last), none with another's prefix.

    The first only warms the worker up.
    """
    random = np.random.default_rng(protocol.seed)
    for length in (
        protocol.lengths[0],
        *(n for n in protocol.lengths for _ in range(protocol.repeats)),
    ):
        yield random.integers(0, vocab_size, length + 1, dtype=np.uint32)


async def measure_prefills(
    prefill: "Prefill", vocab_size: int, protocol: Protocol
) -> "list[PrefillSample]":
    """One sample a prompt, one after another: nobody else's prefill is in a sample's time."""
    samples = []
    for number, tokens in enumerate(prompts(vocab_size, protocol)):
        state = await prefill(tokens)
        if number:
            samples.append(sample_of(state))
    return samples


def sample_of(state: "PrefilledState") -> "PrefillSample":
    """A sample from the signed receipt; codecs that the worker did not use are tried here."""
    from prefill_data.planner.measured import RAW, PrefillSample

    receipt = state.receipt
    used = dict.fromkeys(state.codecs.values(), receipt.state_bytes_sent)
    used = used if len(used) == 1 else {}  # of several together no one's bytes are known
    return PrefillSample(
        tokens=receipt.token_count - 1,
        cached_tokens=receipt.cached_tokens,
        prefill_us=receipt.prefill_us,
        state_bytes={RAW: receipt.state_bytes_raw, **coded_bytes(state), **used},
    )


def coded_bytes(state: "PrefilledState") -> dict[str, int]:
    """Bytes of this state under every lossless codec that changes them."""
    from prefill_kernels import pack

    elements = {
        entry.spec.key: pack.ElementType(entry.spec.dtype) for entry in state.manifest.tensors
    }
    sizes = {}
    for name in pack.lossless_names():
        if name == UNCODED:
            continue
        codec = pack.codec(name)
        sizes[name] = sum(
            len(codec.encode(np.ascontiguousarray(array), elements[key]).payload)
            for key, array in state.tensors.items()
        )
    return sizes


def measure_decode(engine: "StepEngine", protocol: Protocol) -> "list[DecodeSample]":
    """Steps of so many sequences together, each behind a context of its own."""
    from prefill_data.planner.measured import DecodeSample

    random = np.random.default_rng(protocol.seed)
    context = min(DECODE_CONTEXT_TOKENS, engine.max_tokens - protocol.decode_steps - 1)
    capacity = context + protocol.decode_steps + 1
    samples = []
    for batch in protocol.batches:
        ids = random.integers(0, engine.vocab_size, (batch, capacity), dtype=np.uint32)
        handles = [engine.open(row) for row in ids]
        for handle in handles:
            engine.prefill(handle, context)
        for _ in range(protocol.decode_steps):
            start = time.perf_counter_ns()
            engine.step([(handle, 1) for handle in handles])
            for handle in handles:
                engine.last_logits(handle)
            samples.append(DecodeSample(batch, (time.perf_counter_ns() - start) // 1000 or 1))
        for handle in handles:
            engine.close(handle)
    return samples


def served_as(models: "Sequence[ServedModel]", engine: "StepEngine") -> "ServedModel":
    """The served model with this checkpoint's fingerprint and numerics, whatever it is called."""
    wanted = (engine.identity.fingerprint, engine.identity.numerics_profile)
    for model in models:
        if (model.identity.fingerprint, model.identity.numerics_profile) == wanted:
            return model
    names = ", ".join(sorted(model.identity.name for model in models)) or "nothing"
    raise NotConfigured(
        f"the cloud does not serve {engine.identity.name} ({engine.profile}); it serves {names}",
        "name the folder of a served checkpoint with --checkpoint, and its --numerics",
    )


async def measure(
    access: "Credentials", engine: "StepEngine", protocol: Protocol
) -> "list[PrefillSample]":
    """Every prefill sample, from a running cloud."""
    async with open_client(access) as client:
        served = served_as(await client.models(), engine)
        longest = protocol.lengths[-1]
        if longest + 1 > served.max_tokens:
            raise NotConfigured(
                f"{longest:,} tokens and one more; the model takes {served.max_tokens:,}",
                f"measure up to {served.max_tokens - 1:,} tokens",
            )

        async def prefill(tokens: np.ndarray) -> "PrefilledState":
            return await client.prefill(
                tokens,
                served.identity,
                engine.schema,
                deadline_seconds=protocol.deadline_seconds,
                codec_policy="exact",
            )

        return await measure_prefills(prefill, engine.vocab_size, protocol)
