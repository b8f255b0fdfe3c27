"""Any plan file at all: a finite answer, consistent in itself, or a refusal with a remedy."""

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefill_data.planner import schema
from prefill_data.planner.answers import Title, answer
from prefill_data.planner.errors import PlannerError
from prefill_data.planner.loading import scenario_of
from prefill_data.planner.report import document


def log_floats(low, high):
    return st.floats(math.log(low), math.log(high)).map(math.exp)


def rising(low, high):
    """A measured table of four points whose values do not fall."""
    values = st.lists(log_floats(low, high), min_size=4, max_size=4).map(sorted)
    return values.map(
        lambda v: {"kind": "table", "points": [list(p) for p in zip(LENGTHS, v, strict=True)]}
    )


LENGTHS = (100, 2000, 20_000, 140_000)
profiles = st.fixed_dictionaries(
    {
        "format": st.just(1),
        "name": st.just("p"),
        "model": st.just("m"),
        "hardware": st.just("h"),
        "source": st.just("any"),
        "prefill": rising(1e-4, 1000),
        "state": rising(2e5, 1e10).map(lambda curve: {"none": curve}),
        "decode": st.lists(log_floats(1e-4, 1), min_size=1, max_size=3).map(
            lambda steps: [[2**i, step] for i, step in enumerate(sorted(steps))]
        ),
        "gpus_per_instance": st.integers(1, 8),
    }
)
workloads = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("lognormal"),
            "mu": st.floats(5, 12),
            "sigma": st.floats(0.05, 3),
            "min_tokens": st.integers(1, 500),
            "max_tokens": st.integers(501, 140_000),
            "output_tokens": log_floats(1, 10_000),
            "cache_hit_fraction": st.floats(0, 0.999),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("histogram"),
            "points": st.lists(
                st.tuples(log_floats(1, 140_000), log_floats(1e-3, 1e3)), min_size=1, max_size=6
            ),
            "output_tokens": log_floats(1, 10_000),
        }
    ),
)
prices = st.none() | st.integers(0, 10_000_000)


@st.composite
def files(draw):
    """A plan of up to two remote and two local clusters, some pairs without a link."""
    remotes, locals_ = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    machines = st.integers(0, 12)
    links = [(f"r{i}", f"l{j}") for i in range(remotes) for j in range(locals_)]
    return {
        "name": "any",
        "form": draw(st.sampled_from(["representative", "expectation"])),
        "workload": draw(workloads),
        "slo": {
            "decode_tokens_per_second": draw(log_floats(0.5, 100)),
            "ttft_p90_seconds": draw(st.none() | log_floats(0.01, 1000)),
        },
        "codec": {"state_ratio": draw(log_floats(1, 50))},
        "profiles": {"far": draw(profiles), "near": draw(profiles)},
        "prefill_clusters": [
            {
                "name": f"r{i}",
                "region": draw(st.sampled_from(["eu", "us"])),
                "profile": "far",
                "instances": draw(machines),
                "egress_gbps": draw(log_floats(1e-4, 5000)),
                "price_micros_per_gpu_hour": draw(prices),
            }
            for i in range(remotes)
        ],
        "local_clusters": [
            {
                "name": f"l{j}",
                "profile": "near",
                "instances": draw(machines),
                "share": 1 / locals_,
                "residency": draw(st.none() | st.just(["eu"])),
                "price_micros_per_gpu_hour": draw(prices),
            }
            for j in range(locals_)
        ],
        "links": [
            {
                "source": source,
                "target": target,
                "bandwidth_gbps": draw(log_floats(1e-4, 5000)),
                "rtt_ms": draw(st.floats(0, 1000)),
                "price_micros_per_gb": draw(st.integers(0, 100_000)),
            }
            for source, target in links
            if draw(st.booleans())
        ],
        "search": {"step_tokens": draw(st.sampled_from([100, 1000, 20_000]))},
    }


def refusal(file):
    """What was said against it; empty when it was answered, and then the answer is checked."""
    try:
        plan = schema.convert(file, schema.PlanFile)
        found = answer(scenario_of(plan, Path()), Title("any"), sensitivity=False)
    except PlannerError as error:
        return [error.field, error.problem, error.remedy]
    figures = document(found)  # refuses NaN and infinity itself
    assert figures["lambda_rps"] > 0
    assert 0 < figures["capacity_rps"] <= figures["lambda_rps"] * (1 + 1e-6) or (
        figures["form"] == "representative"
    )
    assert max(figures["utilisation"].values()) <= 1 + 1e-6
    for row in figures["queueing"]:
        parts = [row[f"{part}_seconds"] for part in ("queue", "prefill", "exposed_wire", "rtt")]
        assert min(parts) >= 0
        assert math.isclose(sum(parts), row["mean_seconds"], rel_tol=1e-6)
        assert row["p50_seconds"] <= row["p90_seconds"] <= row["p99_seconds"]
    return []


@given(file=files())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_plan_is_answered_or_refused(file):
    said = refusal(file)
    assert not said or all(said)


@pytest.mark.nightly
def test_very_many_plans():
    counts = {True: 0, False: 0}

    @given(file=files())
    @settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
    def try_one(file):
        said = refusal(file)
        assert not said or all(said)
        counts[not said] += 1

    try_one()
    assert counts[True] > 500  # answers, not only refusals
