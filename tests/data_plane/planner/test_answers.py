"""Costs, break-evens, purchases, sensitivities, advice: each against its meaning, with twins."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
from prefill_data.planner import costs
from prefill_data.planner.answers import Title, answer, kv_throughput, purchases
from prefill_data.planner.costs import with_bandwidth
from prefill_data.planner.latency import ttft
from prefill_data.planner.loading import load_case, shipped
from prefill_data.planner.report import document
from prefill_data.planner.solver import solve
from prefill_data.planner.sweeps import DEFAULT_VALUES, Axis, sweep, with_value
from prefill_data.planner.target import plan_for_target


@pytest.fixture(scope="module")
def startup():
    return load_case("startup")[1]


@cache
def answered(name):
    file, scenario = load_case(name)
    return document(answer(scenario, Title(file.name, file.currency)))


@pytest.fixture(params=shipped("cases"))
def case(request):
    return answered(request.param)


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, float):
        yield value


def test_every_case_is_plain_json_without_nan(case):
    assert json.loads(json.dumps(case, allow_nan=False)) == case
    assert all(math.isfinite(number) for number in numbers(case))
    assert case["advice"].endswith(".")
    assert case["advice"].count(". ") == 0  # one sentence


def test_every_case_answers_every_question(case):
    assert set(case["sensitivity"]) == {str(axis) for axis in Axis}
    assert case["homogeneous"]["lambda_rps"] > 0
    assert case["equal_cost"]["lambda_rps"] > 0
    assert case["cost"]["per_million_input_tokens_micros"] > 0
    assert case["break_even_gbps"] > 0
    assert case["purchases"]
    assert case["limit"]
    assert case["proof"]["points"] > 1000
    assert [row["load"] for row in case["queueing"]] == [0.5, 0.7, 0.85]


def test_every_point_of_every_sensitivity_is_a_plan_of_its_own(paper):
    for axis, values in DEFAULT_VALUES.items():
        for point in sweep(paper, axis, values):
            again = solve(with_value(paper, axis, point.value))
            assert point.lambda_rps == again.lambda_rps
            assert point.egress_gbps == again.egress_gbps


def test_cost_per_million_tokens_is_the_money_over_the_tokens(paper):
    plan = solve(paper)
    found = costs.cost(paper, plan, 2.0)
    machines = 4 * 8 * 2_000_000 + 8 * 8 * 1_000_000
    assert found.machines_micros_per_hour == machines
    assert isinstance(found.per_million_input_tokens_micros, int)
    tokens_per_hour = 2.0 * 3600 * paper.local_clusters[0].lengths.mean_total_tokens
    exact = machines * 1_000_000 // round(tokens_per_hour)
    assert found.per_million_input_tokens_micros == pytest.approx(exact, abs=1)
    output = found.per_million_output_tokens_micros
    ratio = paper.local_clusters[0].lengths.mean_total_tokens / 1024
    assert output == pytest.approx(found.per_million_input_tokens_micros * ratio, rel=1e-4)


def test_egress_is_paid_by_the_byte(startup):
    plan = solve(startup)
    found = costs.cost(startup, plan, plan.lambda_rps)
    gb_per_hour = plan.egress_gbps / 8 * 3600
    assert found.egress_micros_per_hour == pytest.approx(gb_per_hour * 10_000, rel=1e-6)
    half = costs.cost(startup, plan, plan.lambda_rps / 2)
    assert half.egress_micros_per_hour == pytest.approx(found.egress_micros_per_hour / 2, abs=1)
    assert half.machines_micros_per_hour == found.machines_micros_per_hour


def test_without_prices_there_is_no_cost(paper):
    free = replace(
        paper,
        prefill_clusters=tuple(replace(c, price_micros_per_hour=0) for c in paper.prefill_clusters),
        local_clusters=tuple(replace(c, price_micros_per_hour=0) for c in paper.local_clusters),
    )
    found = document(answer(free, Title("free"), sensitivity=False))
    assert found["cost"]["per_million_input_tokens_micros"] is None
    assert found["equal_cost_ratio"] is None
    assert found["break_even_price_micros_per_hour"] is None
    assert "as many GPUs" in found["advice"]


def test_the_break_even_bandwidth_is_where_offloading_begins_to_pay(paper):
    target = costs.same_gpus(paper)[1].lambda_rps
    gbps = costs.break_even_gbps(paper, target)
    assert solve(with_bandwidth(paper, gbps)).lambda_rps >= target
    assert solve(with_bandwidth(paper, 0.99 * gbps)).lambda_rps < target
    assert costs.break_even_gbps(paper, 100.0) is None


def test_the_break_even_price_is_where_equal_money_buys_equal_rate(paper):
    plan = solve(paper)
    price = costs.break_even_price_micros_per_hour(paper, plan)
    at = replace(paper.prefill_clusters[0], price_micros_per_hour=price)
    dearer = replace(at, price_micros_per_hour=price + 1)
    rates = [
        costs.same_cost(replace(paper, prefill_clusters=(c,)), plan)[1].lambda_rps
        for c in (at, dearer)
    ]
    # At that price the money buys as many local machines as carry the rate; one less buys fewer.
    assert rates[0] >= plan.lambda_rps * (1 - 1e-9)
    cheaper = replace(at, price_micros_per_hour=price - 1_000_000)
    below = costs.same_cost(replace(paper, prefill_clusters=(cheaper,)), plan)[1]
    assert below.lambda_rps < plan.lambda_rps
    assert rates[1] >= rates[0]


def test_equal_cost_moves_with_the_price_ratio(paper):
    plan = solve(paper)
    fleet, _ = costs.same_cost(paper, plan)
    assert fleet.local_clusters[0].instances == 8 + 4 * 2
    dear = replace(paper.prefill_clusters[0], price_micros_per_hour=3 * 8_000_000)
    fleet, local = costs.same_cost(replace(paper, prefill_clusters=(dear,)), plan)
    assert fleet.local_clusters[0].instances == 8 + 4 * 3
    assert plan.lambda_rps / local.lambda_rps < 1.0


def test_advice_against_offloading_when_it_costs_more(paper):
    dear = replace(paper.prefill_clusters[0], price_micros_per_hour=3 * 8_000_000)
    found = document(
        answer(replace(paper, prefill_clusters=(dear,)), Title("dear"), sensitivity=False)
    )
    assert found["advice"].startswith("Do not offload")
    assert found["equal_cost_ratio"] < 1


def test_purchases_are_the_plans_with_one_more(paper):
    plan = solve(paper)
    best, *rest = purchases(paper, plan)
    assert best.what == "one more instance of prfaas"
    grown = replace(paper, prefill_clusters=(replace(paper.prefill_clusters[0], instances=5),))
    assert best.gain_rps == pytest.approx(solve(grown).lambda_rps - plan.lambda_rps)
    per_price = [
        p.gain_rps / p.price_micros_per_hour for p in (best, *rest) if p.price_micros_per_hour
    ]
    assert per_price == sorted(per_price, reverse=True)
    # Twin: behind 5 Gbit/s the wire is worth more than any machine.
    narrow = with_bandwidth(paper, 5.0)
    gains = {p.what: p.gain_rps for p in purchases(narrow, solve(narrow))}
    assert gains["10 Gbit/s more on every link"] == max(gains.values())


def test_what_limits_moves_with_what_is_scarce(paper):
    assert solve(paper).limit == ("prefill", "prfaas")
    assert solve(with_bandwidth(paper, 10.0)).limit[0] in ("link", "egress")
    slow = replace(paper.local_clusters[0].hardware.decode, batches=(1,), step_seconds=(0.025,))
    cluster = paper.local_clusters[0]
    boxes = replace(cluster, hardware=replace(cluster.hardware, decode=slow))
    assert solve(replace(paper, local_clusters=(boxes,))).limit == ("decode", "pd")


def test_kv_throughput_is_bytes_over_compute(paper):
    """Eqs. 1 and 2: what the machines can put on the wire, below which the wire limits."""
    plan = solve(paper)
    (found,) = kv_throughput(paper, plan)
    assert found.full_egress_gbps == pytest.approx(4 * found.phi_kv_gbps)
    assert 11.5 < found.full_egress_gbps < 13.5
    wide = solve(with_bandwidth(paper, 1.1 * found.full_egress_gbps)).lambda_rps
    assert wide == pytest.approx(plan.lambda_rps, rel=1e-6)
    assert solve(with_bandwidth(paper, 0.9 * found.full_egress_gbps)).lambda_rps < plan.lambda_rps
    halved = with_value(paper, Axis.STATE_RATIO, 2.0)
    (half,) = kv_throughput(halved, solve(halved))
    assert half.phi_kv_gbps == pytest.approx(found.phi_kv_gbps / 2)


def test_the_plan_for_a_target_meets_it_at_a_rate_that_the_throughput_plan_does_not(paper):
    slo = answered("paper")["slo"]
    assert slo["best"]["rate_rps"] > 1.05 * slo["rate_rps"]
    (best,) = slo["best"]["clusters"]
    found = plan_for_target(paper, solve(paper), 6.0, slo["rate_rps"])
    assert found.plan.locals[0].n_p == best["n_p"] == 4  # one more machine than for throughput
    assert ttft(paper, found.plan, found.rate_rps).p90_seconds <= 6.0 * (1 + 1e-6)
    assert ttft(paper, found.plan, 1.01 * found.rate_rps).p90_seconds > 6.0
    # Twin: no plan meets what an idle H200 cannot.
    assert plan_for_target(paper, solve(paper), 1.0, None) is None


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("startup", {"lambda_rps": 9.6, "equal_cost_ratio": 1.02, "break_even_gbps": 3.3}),
        ("enterprise", {"lambda_rps": 6.7, "equal_cost_ratio": 1.11}),
    ],
)
def test_the_worked_examples_are_what_the_readme_says(name, facts):
    found = answered(name)
    for key, figure in facts.items():
        assert found[key] == pytest.approx(figure, abs=0.05 if figure > 2 else 0.005), key
    thresholds = {c["name"]: c["threshold_tokens"] for c in found["clusters"]}
    expected = {"boxes": 4800} if name == "startup" else {"decode-eu": 17_600, "decode-us": 15_400}
    assert thresholds == expected
    if name == "startup":
        assert found["break_even_price_micros_per_hour"] == pytest.approx(21_000_000, rel=0.003)
        assert found["purchases"][0]["gain_rps"] == pytest.approx(4.9, abs=0.05)
        assert found["homogeneous"]["lambda_rps"] == pytest.approx(4.6, abs=0.05)
    else:
        assert found["offload_shares"]["decode-us"]["prefill-eu"] == pytest.approx(0.03, abs=0.005)
        gain = found["purchases"][0]["gain_rps"] / found["lambda_rps"]
        assert gain == pytest.approx(0.126, abs=0.001)
