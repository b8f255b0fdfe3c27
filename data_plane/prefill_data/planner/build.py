"""From checked files to a Scenario: names resolved, units sanity-checked."""

from collections.abc import Callable

import numpy as np

from prefill_data.planner import schema
from prefill_data.planner.curves import Curve, DecodeCurve, PolynomialCurve, TableCurve
from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.fleet import (
    Codec,
    Exchange,
    Hardware,
    Link,
    LocalCluster,
    PrefillCluster,
    Scenario,
    Search,
    Slo,
)
from prefill_data.planner.lengths import Lengths, LogNormal, histogram

ProfileReader = Callable[[str], schema.ProfileFile]
TraceReader = Callable[[schema.TraceWorkload], Lengths]

# Beyond these a number is a unit mistake, not a machine.
MAX_INSTANCES = 1_024
MAX_GBPS = 5_000.0
MAX_SECONDS_PER_TOKEN = 0.01  # 100 tokens/s: a decode step is faster
MAX_STEP_SECONDS = 5.0
MIN_STATE_BYTES_PER_TOKEN = 1.0
MIN_PRICE_MICROS = 1_000


def build(plan: schema.PlanFile, profile: ProfileReader, trace: TraceReader) -> Scenario:
    """The scenario of a plan file; readers give shipped profiles and traces (they do the I/O)."""
    machines = _Machines(plan, profile)
    return Scenario(
        prefill_clusters=tuple(_prefill_cluster(c, machines) for c in plan.prefill_clusters),
        local_clusters=tuple(
            _local_cluster(c, machines, lengths(_workload(plan, c), trace))
            for c in plan.local_clusters
        ),
        links=tuple(_link(link) for link in plan.links),
        slo=Slo(plan.slo.decode_tokens_per_second, plan.slo.ttft_p90_seconds),
        codec=_codec(plan.codec),
        form=plan.form,
        exchange=Exchange(plan.exchange.round_trips, plan.exchange.chunk_tokens),
        search=Search(plan.search.step_tokens, plan.search.last_tokens),
    )


def hardware(profile: schema.ProfileFile) -> Hardware:
    """A profile as curves. Raises InvalidInputError where a number looks like another unit."""
    place = f"profiles.{profile.name}"
    if "none" not in profile.state:
        raise InvalidInputError(
            f"{place}.state", "no curve under 'none'", "give the raw state's bytes as state.none"
        )
    prefill = curve(f"{place}.prefill", profile.prefill)
    states = {name: curve(f"{place}.state.{name}", file) for name, file in profile.state.items()}
    _check_units(place, prefill, states["none"])
    batches = tuple(batch for batch, _ in profile.decode)
    steps = tuple(seconds for _, seconds in profile.decode)
    if max(steps, default=0.0) > MAX_STEP_SECONDS:
        raise InvalidInputError(
            f"{place}.decode",
            f"a step of {max(steps):g} s, the limit is {MAX_STEP_SECONDS:g}",
            "pairs are [batch, seconds of one step], not milliseconds",
        )
    return Hardware(
        name=profile.name,
        source=profile.source,
        prefill=prefill,
        state=states["none"],
        decode=DecodeCurve(f"{place}.decode", batches, steps) if batches else None,
        codec_states=states,
        calibrated=tuple(profile.calibration.figures) if profile.calibration else (),
        gpus=profile.gpus_per_instance,
    )


def curve(field: str, file: schema.CurveFile) -> Curve:
    """One curve of a profile."""
    if isinstance(file, schema.PolynomialCurveFile):
        return PolynomialCurve(field, tuple(file.coefficients), file.last_tokens)
    return TableCurve(field, tuple(t for t, _ in file.points), tuple(v for _, v in file.points))


def lengths(workload: schema.WorkloadFile, trace: TraceReader) -> Lengths:
    """The uncached lengths of a workload."""
    if isinstance(workload, schema.TraceWorkload):
        return trace(workload)
    if isinstance(workload, schema.HistogramWorkload):
        plain = histogram(workload.points, workload.output_tokens)
    else:
        shape = LogNormal(workload.mu, workload.sigma, workload.min_tokens, workload.max_tokens)
        plain = shape.lengths(workload.output_tokens)
    return plain.with_hit_fraction(workload.cache_hit_fraction)


class _Machines:
    """Profiles by name, and an instance's price."""

    def __init__(self, plan: schema.PlanFile, read: ProfileReader) -> None:
        self._inline, self._read = plan.profiles, read

    def get(self, name: str) -> tuple[schema.ProfileFile, Hardware]:
        profile = self._inline[name] if name in self._inline else self._read(name)
        if profile.gpus_per_instance < 1:
            raise InvalidInputError(
                f"profiles.{name}.gpus_per_instance", "below 1", "count the GPUs of an instance"
            )
        return profile, hardware(profile)

    def price(self, place: str, given: int | None, profile: schema.ProfileFile) -> int:
        """Micros per instance-hour: the cluster's price, else the profile's, else 0."""
        per_gpu = given if given is not None else profile.price_micros_per_gpu_hour
        if per_gpu is None:
            return 0
        if per_gpu < 0 or 0 < per_gpu < MIN_PRICE_MICROS:
            raise InvalidInputError(
                f"{place}.price_micros_per_gpu_hour",
                f"{per_gpu} millionths an hour is below {MIN_PRICE_MICROS}",
                "prices are millionths: 2.50 an hour is 2500000",
            )
        return per_gpu * profile.gpus_per_instance


def _prefill_cluster(file: schema.PrefillClusterFile, machines: _Machines) -> PrefillCluster:
    place = f"prefill_clusters.{file.name}"
    profile, machine = machines.get(file.profile)
    _check_instances(place, file.instances)
    _check_gbps(f"{place}.egress_gbps", file.egress_gbps)
    price = machines.price(place, file.price_micros_per_gpu_hour, profile)
    return PrefillCluster(file.name, file.region, machine, file.instances, file.egress_gbps, price)


def _local_cluster(
    file: schema.LocalClusterFile, machines: _Machines, prompts: Lengths
) -> LocalCluster:
    profile, machine = machines.get(file.profile)
    _check_instances(f"local_clusters.{file.name}", file.instances)
    return LocalCluster(
        name=file.name,
        region=file.region,
        hardware=machine,
        instances=file.instances,
        lengths=prompts,
        share=file.share,
        residency=tuple(file.residency) if file.residency is not None else None,
        price_micros_per_hour=machines.price(
            f"local_clusters.{file.name}", file.price_micros_per_gpu_hour, profile
        ),
    )


def _workload(plan: schema.PlanFile, cluster: schema.LocalClusterFile) -> schema.WorkloadFile:
    workload = cluster.workload or plan.workload
    if workload is None:
        raise InvalidInputError(
            f"local_clusters.{cluster.name}.workload",
            "missing, and the plan has none either",
            "give one workload for all, or one for each local cluster",
        )
    return workload


def _link(file: schema.LinkFile) -> Link:
    _check_gbps(f"links.{file.source}->{file.target}.bandwidth_gbps", file.bandwidth_gbps)
    return Link(
        file.source, file.target, file.bandwidth_gbps, file.rtt_ms, file.price_micros_per_gb
    )


def _codec(file: schema.CodecFile) -> Codec:
    if file.name == "none" and file.state_ratio is None:
        return Codec()
    return Codec(file.name, file.state_ratio)


def _check_instances(place: str, instances: int) -> None:
    if not 0 <= instances <= MAX_INSTANCES:
        raise InvalidInputError(
            f"{place}.instances",
            f"{instances:,} is outside 0 to {MAX_INSTANCES:,}",
            "count instances of `gpus_per_instance` GPUs each, and split larger clusters",
        )


def _check_gbps(field: str, gbps: float) -> None:
    if gbps > MAX_GBPS:
        raise InvalidInputError(
            field,
            f"{gbps:g} Gbit/s is above {MAX_GBPS:g}",
            "the unit is Gbit/s: 100 for a 100G port, not Mbit/s or bit/s",
        )


def _check_units(place: str, prefill: Curve, state: Curve) -> None:
    """At the last measured length, seconds and bytes per token must be a machine's."""
    last = np.array([prefill.last_tokens])
    seconds = float(prefill.at(last)[0]) / prefill.last_tokens
    if seconds > MAX_SECONDS_PER_TOKEN:
        raise InvalidInputError(
            f"{place}.prefill",
            f"{seconds:g} s for each token, the limit is {MAX_SECONDS_PER_TOKEN:g}",
            "values are seconds for the whole prompt, not milliseconds",
        )
    last = np.array([state.last_tokens])
    per_token = float(state.at(last)[0]) / state.last_tokens
    if per_token < MIN_STATE_BYTES_PER_TOKEN:
        raise InvalidInputError(
            f"{place}.state.none",
            f"{per_token:g} bytes for each token, the limit is {MIN_STATE_BYTES_PER_TOKEN:g}",
            "values are bytes of the whole state, not MiB",
        )
