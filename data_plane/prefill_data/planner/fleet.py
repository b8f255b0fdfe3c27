"""What is planned: clusters, links, codec, service levels. Values only; units in every name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from prefill_data.planner.curves import Curve, DecodeCurve, ScaledCurve
from prefill_data.planner.errors import (
    InvalidInputError,
    MissingProfilePointError,
    require_positive,
)
from prefill_data.planner.lengths import Lengths

BYTES_PER_SECOND_PER_GBPS = 1e9 / 8


class Form(StrEnum):
    """How the equations see lengths.

    REPRESENTATIVE is the paper's: T(E[L | L > t]). EXPECTATION is E[T(L) | L > t], which is what a
    queue of real prompts needs: the curves are convex, so it is lower.
    """

    REPRESENTATIVE = "representative"
    EXPECTATION = "expectation"


@dataclass(frozen=True)
class Hardware:
    """One instance type under one model.

    `prefill` seconds and `state` bytes against uncached tokens; `codec_states` are measured sizes
    under a codec; `decode` is None for machines that were only measured for prefill. `calibrated`
    names the figures of the source that the curves were inverted from.
    """

    name: str
    source: str
    prefill: Curve
    state: Curve
    decode: DecodeCurve | None = None
    codec_states: Mapping[str, Curve] = field(default_factory=lambda: MappingProxyType({}))
    calibrated: tuple[str, ...] = ()
    gpus: int = 1


@dataclass(frozen=True)
class Codec:
    """`state_ratio` is raw bytes over encoded bytes; None takes the profile's measured curve."""

    name: str = "none"
    state_ratio: float | None = 1.0

    def __post_init__(self) -> None:
        if self.state_ratio is not None:
            require_positive("codec.state_ratio", self.state_ratio, "raw bytes / encoded bytes")
            if self.state_ratio < 1:
                raise InvalidInputError(
                    "codec.state_ratio",
                    f"{self.state_ratio:g} would make the state larger",
                    "give raw bytes / encoded bytes: a codec that halves the state has 2.0",
                )

    def state_curve(self, hardware: Hardware) -> Curve:
        """Encoded bytes against tokens. Raises MissingProfilePointError for an unmeasured codec."""
        if self.state_ratio is not None:
            return ScaledCurve(hardware.state, 1 / self.state_ratio)
        if self.name not in hardware.codec_states:
            known = ", ".join(hardware.codec_states) or "none"
            raise MissingProfilePointError(
                "codec.name",
                f"{hardware.name} has no measured state under {self.name!r} (measured: {known})",
                "give codec.state_ratio, or measure the codec with `prefill-cloud profile`",
            )
        return hardware.codec_states[self.name]


@dataclass(frozen=True)
class PrefillCluster:
    """PrfaaS instances: prefill only, reached over links. Price of one instance."""

    name: str
    region: str
    hardware: Hardware
    instances: int
    egress_gbps: float
    price_micros_per_hour: int = 0

    def __post_init__(self) -> None:
        _check_machines(f"prefill_clusters.{self.name}", self.instances, self.price_micros_per_hour)
        require_positive(
            f"prefill_clusters.{self.name}.egress_gbps",
            self.egress_gbps,
            "give Gbit/s; to plan without the cluster, leave it out",
        )


@dataclass(frozen=True)
class LocalCluster:
    """PD instances: each is a prefill or a decode machine, which the planner decides.

    `share` of all arrivals; `residency` is the regions its prompts may go to, None for anywhere.
    """

    name: str
    region: str
    hardware: Hardware
    instances: int
    lengths: Lengths
    share: float = 1.0
    residency: tuple[str, ...] | None = None
    price_micros_per_hour: int = 0

    def __post_init__(self) -> None:
        _check_machines(f"local_clusters.{self.name}", self.instances, self.price_micros_per_hour)
        require_positive(f"local_clusters.{self.name}.share", self.share, "a share of arrivals")
        if self.hardware.decode is None:
            raise MissingProfilePointError(
                f"local_clusters.{self.name}.profile",
                f"{self.hardware.name} has no decode step, and a local cluster decodes",
                "measure decode steps, or use this profile for a prefill cluster",
            )

    def may_use(self, cluster: PrefillCluster) -> bool:
        return self.residency is None or cluster.region in self.residency


@dataclass(frozen=True)
class Link:
    """From a prefill cluster to a local one; Gbit are 10^9 bit, a GB is 10^9 bytes."""

    source: str
    target: str
    bandwidth_gbps: float
    rtt_ms: float = 0.0
    price_micros_per_gb: int = 0

    def __post_init__(self) -> None:
        place = f"links.{self.source}->{self.target}"
        require_positive(
            f"{place}.bandwidth_gbps", self.bandwidth_gbps, "give Gbit/s, or leave the link out"
        )
        if not 0 <= self.rtt_ms < 60_000 or self.price_micros_per_gb < 0:
            raise InvalidInputError(
                place,
                f"rtt {self.rtt_ms:g} ms, price {self.price_micros_per_gb} micros/GB",
                "a round trip lies in [0, 60000) ms and a price is not negative",
            )


@dataclass(frozen=True)
class Slo:
    """Decode speed a user sees, and the latency target if there is one."""

    decode_tokens_per_second: float
    ttft_p90_seconds: float | None = None

    def __post_init__(self) -> None:
        require_positive("slo.decode_tokens_per_second", self.decode_tokens_per_second, "e.g. 40")
        if self.ttft_p90_seconds is not None:
            require_positive("slo.ttft_p90_seconds", self.ttft_p90_seconds, "seconds, e.g. 5")


@dataclass(frozen=True)
class Exchange:
    """What the protocol adds: round trips (Open, Prompt, Claim) and the closing set.

    The closing set, sent when the last chunk is computed, is the recurrent state and the last
    chunk's attention: the encoded state of `chunk_tokens`.
    """

    round_trips: int = 3
    chunk_tokens: int = 2048

    def __post_init__(self) -> None:
        if self.round_trips < 0:
            raise InvalidInputError(
                "exchange.round_trips", f"{self.round_trips} is below 0", "the protocol has 3"
            )
        require_positive("exchange.chunk_tokens", self.chunk_tokens, "tokens of a chunk, e.g. 2048")


@dataclass(frozen=True)
class Search:
    """The grid of thresholds: 0, step, 2 step, ... up to the longest prompt or `last_tokens`."""

    step_tokens: int = 100
    last_tokens: int | None = None

    def __post_init__(self) -> None:
        require_positive("search.step_tokens", self.step_tokens, "e.g. 100")
        if self.last_tokens is not None:
            require_positive("search.last_tokens", self.last_tokens, "leave out for all lengths")


@dataclass(frozen=True)
class Scenario:
    """Everything a plan depends on."""

    prefill_clusters: tuple[PrefillCluster, ...]
    local_clusters: tuple[LocalCluster, ...]
    links: tuple[Link, ...]
    slo: Slo
    codec: Codec = field(default_factory=Codec)
    form: Form = Form.EXPECTATION
    exchange: Exchange = field(default_factory=Exchange)
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if not self.local_clusters:
            raise InvalidInputError("local_clusters", "none", "somebody has to decode: give one")
        _check_names(self)
        total = sum(cluster.share for cluster in self.local_clusters)
        if abs(total - 1) > 1e-6:
            raise InvalidInputError(
                "local_clusters", f"shares add up to {total:g}", "make the shares add up to 1"
            )

    @property
    def clusters(self) -> tuple[PrefillCluster | LocalCluster, ...]:
        """Everything that is bought by the instance."""
        return (*self.prefill_clusters, *self.local_clusters)

    def link(self, source: PrefillCluster, target: LocalCluster) -> Link | None:
        """The link to use, or None when there is none or residency forbids it."""
        if not target.may_use(source):
            return None
        pair = (source.name, target.name)
        return next((link for link in self.links if (link.source, link.target) == pair), None)


def _check_machines(place: str, instances: int, price_micros_per_hour: int) -> None:
    if instances < 0 or price_micros_per_hour < 0:
        raise InvalidInputError(
            place,
            f"{instances} instances at {price_micros_per_hour} micros/h",
            "neither is negative",
        )


def _check_names(scenario: Scenario) -> None:
    sources = [cluster.name for cluster in scenario.prefill_clusters]
    targets = [cluster.name for cluster in scenario.local_clusters]
    if len({*sources, *targets}) != len(sources) + len(targets):
        raise InvalidInputError("clusters", "two have the same name", "name each cluster once")
    seen = set()
    for link in scenario.links:
        pair = (link.source, link.target)
        if link.source not in sources or link.target not in targets or pair in seen:
            raise InvalidInputError(
                f"links.{link.source}->{link.target}",
                "unknown cluster, or the second link of this pair",
                f"from one of {sources} to one of {targets}, one link a pair",
            )
        seen.add(pair)
