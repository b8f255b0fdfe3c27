"""What a plan file can get wrong: every mistake is refused by field, number and remedy, or said.

Each case is the paper's file with one thing changed, so the twin of all of them is that file.
"""

import json
import math

import pytest
import yaml
from prefill_data.planner import schema
from prefill_data.planner.answers import Title, answer
from prefill_data.planner.build import hardware
from prefill_data.planner.errors import (
    InfeasibleError,
    InvalidInputError,
    MissingProfilePointError,
    PlannerError,
)
from prefill_data.planner.loading import PACKAGE, load_case, load_plan, load_profile, scenario_of
from prefill_data.planner.report import document
from prefill_wire.status import StatusCode

REMOVED = object()


def paper_file():
    from importlib import resources

    text = (resources.files(PACKAGE) / "cases" / "paper.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def profile_file(name="paper-1t-h200"):
    from importlib import resources

    text = (resources.files(PACKAGE) / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def put(document_, path, value):
    """Set or remove the value at a path like `links.0.bandwidth_gbps`."""
    *folders, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    for folder in folders:
        document_ = document_[folder]
    if value is REMOVED:
        del document_[last]
    else:
        document_[last] = value


def planned(*changes):
    """The whole answer of the paper's file with these (path, value) changes."""
    file = paper_file()
    for path, value in changes:
        put(file, path, value)
    plan = schema.convert(file, schema.PlanFile)
    found = answer(scenario_of(plan, None), Title(plan.name), sensitivity=False)
    return document(found)


def profiled(*changes):
    file = profile_file()
    for path, value in changes:
        put(file, path, value)
    return hardware(schema.convert(file, schema.ProfileFile))


def test_twin_the_file_without_a_mistake_is_a_plan():
    assert planned()["lambda_rps"] > 3
    assert profiled().prefill.last_tokens == 131_072


@pytest.mark.parametrize(
    ("path", "value", "field", "said"),
    [
        # types and names
        ("name", REMOVED, "file", "missing required field `name`"),
        ("local_clusters", REMOVED, "file", "local_clusters"),
        ("local_clusters", [], "local_clusters", "give one"),
        (
            "slo.decode_tokens_per_second",
            "fast",
            "slo.decode_tokens_per_second",
            "Expected `float`",
        ),
        ("prefill_clusters.0.instances", 2.5, "prefill_clusters[0].instances", "Expected `int`"),
        ("prefill_clusters.0.instances", -1, "prefill_clusters.prfaas.instances", "outside 0 to"),
        ("local_clusters.0.instances", 10**9, "local_clusters.pd.instances", "1,000,000,000"),
        (
            "links.0.color",
            "red",
            "links[0]",
            "fields there: bandwidth_gbps, price_micros_per_gb, rtt",
        ),
        ("links.0.target", "nowhere", "links.prfaas->nowhere", "unknown cluster"),
        ("workload.kind", "pareto", "workload", "pareto"),
        ("prefill_clusters.0.profile", "h300", "profile", "known: kimi-linear-48b-h100"),
        ("local_clusters.0.profile", "paper-1t-h200", "profile", "has no decode step"),
        ("local_clusters.0.share", 0.5, "local_clusters", "shares add up to 0.5"),
        ("local_clusters.0.name", "prfaas", "clusters", "the same name"),
        ("form", "guess", "form", "Invalid enum value 'guess'"),
        # units
        ("links.0.bandwidth_gbps", "12.5 GB/s", "bandwidth_gbps", "GB/s times 8 is Gbit/s"),
        ("links.0.bandwidth_gb", 12.5, "links[0]", "GB/s times 8 is Gbit/s"),
        ("links.0.bandwidth_gbps", 100_000, "bandwidth_gbps", "not Mbit/s or bit/s"),
        ("prefill_clusters.0.egress_gbps", 1e11, "egress_gbps", "not Mbit/s or bit/s"),
        ("prefill_clusters.0.price_micros_per_gpu_hour", 2, "price_micros", "2.50 an hour is"),
        ("prefill_clusters.0.price_micros_per_gpu_hour", 2.5, "price_micros", "whole millionths"),
        ("links.0.rtt_ms", "30 ms", "rtt_ms", "times carry their unit"),
        ("links.0.rtt_ms", 120_000, "links.prfaas->pd", "round trip lies in"),
        ("workload.cache_hit_fraction", 36.6, "cache_hit_fraction", "36.6% as 0.366"),
        ("workload.mu", 20_000, "workload.mu", "mean of ln(tokens)"),
        # numbers that cannot be
        ("links.0.bandwidth_gbps", 0, "bandwidth_gbps", "leave the link out"),
        ("links.0.bandwidth_gbps", math.nan, "bandwidth_gbps", "not a finite number"),
        ("prefill_clusters.0.egress_gbps", 0, "egress_gbps", "leave it out"),
        ("prefill_clusters.0.egress_gbps", math.inf, "egress_gbps", "Gbit/s"),
        ("slo.decode_tokens_per_second", 0, "slo.decode_tokens_per_second", "above 0"),
        ("slo.ttft_p90_seconds", -1, "slo.ttft_p90_seconds", "above 0"),
        ("workload.sigma", 0, "workload.sigma", "positive sigma"),
        ("workload.max_tokens", 100, "workload.max_tokens", "min_tokens < max_tokens"),
        ("workload.output_tokens", 0, "workload.output_tokens", "decodes something"),
        ("codec", {"state_ratio": 0.5}, "codec.state_ratio", "make the state larger"),
        ("exchange", {"round_trips": -1}, "exchange.round_trips", "the protocol has 3"),
        ("exchange", {"chunk_tokens": 0}, "exchange.chunk_tokens", "e.g. 2048"),
        ("search", {"step_tokens": 1}, "search.step_tokens", "larger step"),
        ("search", {"step_tokens": 0}, "search.step_tokens", "e.g. 100"),
        # profiles
        ("workload.max_tokens", 262_144, "prefill", "the last is 131,072"),
        ("codec", {"name": "int8"}, "codec.name", "no measured state under 'int8'"),
    ],
)
def test_a_mistake_in_a_plan_is_refused(path, value, field, said):
    with pytest.raises(InvalidInputError) as caught:
        planned((path, value))
    error = caught.value
    assert field in error.field, error.field
    assert said in f"{error.problem} {error.remedy}", (error.problem, error.remedy)
    assert error.remedy
    assert error.code is StatusCode.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("path", "value", "field", "said"),
    [
        ("prefill.points", [], "paper-1t-h200.prefill", "needs at least 2"),
        ("prefill.points", [[1024, 0.44]], "prefill", "1 points"),
        ("prefill.points", [[1024, 0.4], [1024, 0.5]], "prefill[1]", "do not follow"),
        ("prefill.points", [[8192, 0.4], [1024, 0.5]], "prefill[1]", "do not follow"),
        ("prefill.points", [[1024, 0.5], [8192, 0.4]], "prefill[1]", "cannot cost less"),
        ("prefill.points", [[1024, 0], [8192, 0.4]], "prefill[0]", "positive value"),
        ("prefill.points", [[1024, math.nan], [8192, 0.4]], "prefill[0]", "not a finite"),
        ("prefill.points", [[1024, 440.0], [131072, 7400.0]], "prefill", "not milliseconds"),
        ("prefill.points", [[1024, 64.0], [131072, 1610.0]], "prefill", "not milliseconds"),
        ("state.none.coefficients", [173.9, 0.0165], "state.none", "not MiB"),
        ("state.none.coefficients", [1e8, -1], "state.none.coefficients[1]", "below 0"),
        ("state.none.coefficients", [0, 0], "state.none.coefficients", "all of them are 0"),
        ("state", {}, "state", "state.none"),
        ("decode", [[20, 25.0]], "decode", "not milliseconds"),
        ("decode", [[20, 0.025], [10, 0.02]], "decode[1]", "sort by batch"),
        ("decode", [[0, 0.025]], "decode[0]", "at least 1 sequence"),
        ("format", 2, "format", "Invalid enum value 2"),
        ("prefill.kind", "spline", "prefill", "spline"),
    ],
)
def test_a_mistake_in_a_profile_is_refused(path, value, field, said):
    with pytest.raises(InvalidInputError) as caught:
        profiled((path, value))
    error = caught.value
    assert field in error.field, error.field
    assert said in f"{error.problem} {error.remedy}", (error.problem, error.remedy)


def test_a_missing_point_is_its_own_error():
    with pytest.raises(MissingProfilePointError, match=r"no point at or beyond 26\d,\d{3} tokens"):
        planned(("workload.max_tokens", 262_144))


def test_a_decode_slo_out_of_reach_says_by_how_much():
    with pytest.raises(InfeasibleError, match=r"80 tokens/s, and .* reaches 40\.0") as caught:
        planned(("slo.decode_tokens_per_second", 80))
    assert caught.value.shortfall == pytest.approx(1.0)


def test_a_ttft_target_out_of_reach_is_a_plan_that_says_by_how_much():
    found = planned(("slo.ttft_p90_seconds", 2.0))
    assert found["slo"]["rate_rps"] is None
    assert found["slo"]["missed_by"] == pytest.approx(3.52 / 2 - 1, abs=0.01)
    assert "missed by 76% even when idle" in found["advice"]
    within = planned(("slo.ttft_p90_seconds", 4.0))["slo"]
    assert within["missed_by"] is None
    assert within["rate_rps"] > 0


@pytest.mark.parametrize(
    ("changes", "long_fraction"),
    [
        ([("links.0.bandwidth_gbps", 1e-6), ("search", {})], 0),
        ([("prefill_clusters.0.instances", 0), ("search", {})], 0),
        ([("prefill_clusters.0.instances", 400), ("links.0.bandwidth_gbps", 4000)], 1),
        ([("prefill_clusters", []), ("links", []), ("search", {})], 0),
        ([("links", []), ("search", {})], 0),
    ],
)
def test_p_of_0_and_1_are_plans_without_a_number_that_is_none(changes, long_fraction):
    if long_fraction == 1:
        changes = [*changes, ("prefill_clusters.0.egress_gbps", 4000)]
    found = planned(*changes)
    assert found["long_fraction"] == pytest.approx(long_fraction, abs=1e-9)
    assert found["lambda_rps"] > 0
    assert "NaN" not in json.dumps(found)
    assert json.dumps(found, allow_nan=False)


def test_no_machine_to_decode_is_infeasible():
    with pytest.raises(InfeasibleError, match="no request can be served") as caught:
        planned(("local_clusters.0.instances", 0))
    assert caught.value.field == "local_clusters.pd"


def test_files_that_are_no_plans(tmp_path):
    path = tmp_path / "plan.yaml"
    for text, said in (
        ("a: [", "not YAML"),
        ("- 1\n- 2\n", "Expected `object`"),
        ("", "Expected `object`"),
        ("{}", "missing required field"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PlannerError) as caught:
            load_plan(path)
        assert said in str(caught.value)
        assert caught.value.remedy


@pytest.mark.parametrize("text", ["a: [1\nb: {", "a: b: c", "name: !!python/none x", "\x00"])
def test_what_is_wrong_with_yaml_is_one_line(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInputError, match="not YAML") as caught:
        load_plan(path)
    assert len(str(caught.value).splitlines()) == 1
    assert ("line" in str(caught.value)) is (text != "\x00")


def test_yaml_can_carry_no_code(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="not YAML"):
        load_plan(path)


def test_a_profile_and_a_trace_lie_beside_the_plan(tmp_path):
    """Paths are relative to the plan file; the profile is what `prefill-cloud profile` writes."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile_file("paper-1t-h20")), "utf-8")
    line = '{"input_length": 9000, "output_length": 100, "hash_ids": [1, 2]}\n'
    (tmp_path / "t.jsonl").write_text(line * 3, "utf-8")
    file = paper_file()
    put(file, "local_clusters.0.profile", "mine.yaml")
    put(file, "workload", {"kind": "trace", "path": "t.jsonl"})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(file), "utf-8")
    _, scenario = load_plan(tmp_path / "plan.yaml")
    assert scenario.local_clusters[0].lengths.block_hit_fraction == pytest.approx(4 / 6)
    put(file, "workload.block_tokens", 0)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(file), "utf-8")
    with pytest.raises(InvalidInputError, match="blocks of 0"):
        load_plan(tmp_path / "plan.yaml")


def test_unknown_names_are_told_the_known_ones(tmp_path):
    with pytest.raises(InvalidInputError) as caught:
        load_case("papers")
    assert "enterprise, paper, startup" in caught.value.remedy
    with pytest.raises(InvalidInputError) as caught:
        load_profile("h200", tmp_path)
    assert "paper-1t-h200" in caught.value.remedy
