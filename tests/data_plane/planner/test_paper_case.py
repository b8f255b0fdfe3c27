"""The paper's Table 6 from its equations, and twins that show nothing is typed in."""

import json
from dataclasses import replace

import pytest
from prefill_data.planner.answers import Title, answer
from prefill_data.planner.costs import with_bandwidth
from prefill_data.planner.fleet import Form, Search
from prefill_data.planner.latency import capacity_rps, ttft
from prefill_data.planner.report import COMPARED, FIGURES, document
from prefill_data.planner.solver import solve
from prefill_data.planner.sweeps import Axis, sweep, with_value


@pytest.fixture(scope="module")
def figures(paper):
    return document(answer(paper, Title("paper")))


@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("threshold_tokens", 19_400, 0.03 * 19_400),
        ("n_prfaas", 4, 0),
        ("n_p", 3, 0),
        ("n_d", 5, 0),
        ("theta_prfaas", 1.61, 0.01 * 1.61),
        ("theta_pd_p", 1.64, 0.01 * 1.64),
        ("theta_pd_d", 3.91, 0.01 * 3.91),
        ("lambda_rps", 3.24, 0.01 * 3.24),
        ("ratio_homogeneous", 1.54, 0.01),
        ("ratio_naive", 1.16, 0.01),
        ("ttft_mean_seconds", 2.22, 0.03 * 2.22),
        ("ttft_p90_seconds", 3.51, 0.01 * 3.51),
        ("egress_gbps", 12.75, 0.75),
        ("equal_cost_ratio", 1.15, 0.01),
        ("long_fraction", 0.496, 0.01),
        ("mean_long_tokens", 44_000, 0.03 * 44_000),
    ],
)
def test_table_6(figures, name, expected, tolerance):
    assert abs(figures[name] - expected) <= tolerance


def test_the_other_fleets_of_table_6(figures):
    homogeneous, naive = figures["homogeneous"], figures["naive"]
    assert (homogeneous["n_p"], homogeneous["n_d"]) == (9, 3)
    assert homogeneous["lambda_rps"] == pytest.approx(2.11, rel=0.01)
    assert homogeneous["theta_pd_d"] == pytest.approx(2.35, rel=0.01)
    assert homogeneous["ttft_p90_seconds"] == pytest.approx(9.73, rel=0.01)
    assert homogeneous["ttft_mean_seconds"] == pytest.approx(4.44, rel=0.01)
    assert (naive["n_p"], naive["n_d"]) == (0, 8)
    assert naive["lambda_rps"] == pytest.approx(2.45, rel=0.01)
    fall = 1 - figures["ttft_p90_seconds"] / homogeneous["ttft_p90_seconds"]
    assert fall == pytest.approx(0.64, abs=0.01)


def test_the_basis_of_every_figure_is_said(figures):
    basis = figures["basis"]
    fleets = {f"{fleet}.{name}" for fleet in ("homogeneous", "naive") for name in COMPARED}
    assert set(basis) == set(FIGURES) | fleets
    assert basis["homogeneous.ttft_p90_seconds"] == "calibrated"
    assert basis["homogeneous.ttft_mean_seconds"] == "independent"
    calibrated = {"theta_prfaas", "theta_pd_p", "theta_pd_d", "lambda_rps", "ttft_p90_seconds"}
    independent = {"threshold_tokens", "n_p", "n_d", "ttft_mean_seconds", "egress_gbps"}
    assert all(basis[name] == "calibrated" for name in calibrated)
    assert all(basis[name] == "independent" for name in independent)


def test_the_grid_is_proven(paper):
    proof = solve(paper).proof
    assert proof.points == 9 * 1_312  # splits times thresholds
    assert proof.grid_bound_rps <= proof.off_grid_bound_rps < 1.002 * proof.grid_bound_rps


def test_the_two_forms_differ(paper):
    plan = solve(paper)
    assert plan.lambda_rps == pytest.approx(3.24, rel=0.01)
    # What a queue of real prompts can carry of the very same plan, and re-optimised.
    assert capacity_rps(paper, plan) == pytest.approx(3.13, rel=0.003)
    expectation = solve(replace(paper, form=Form.EXPECTATION))
    assert capacity_rps(paper, plan) <= expectation.lambda_rps < plan.lambda_rps
    assert capacity_rps(paper, expectation) == pytest.approx(expectation.lambda_rps)


@pytest.mark.parametrize(("rate", "mean", "p90"), [(2.0, 2.57, 4.38), (2.8, 4.8, 9.1)])
def test_ttft_with_queues_is_what_others_simulated(paper, rate, mean, p90):
    """Published simulations of this plan with Poisson arrivals, first come first served."""
    times = ttft(paper, solve(paper), rate)
    assert times.mean_seconds == pytest.approx(mean, rel=0.03)
    assert times.p90_seconds == pytest.approx(p90, rel=0.04)


def test_twin_twice_the_remote_machines_move_everything_remote(paper, figures):
    doubled = replace(
        paper, prefill_clusters=tuple(replace(c, instances=8) for c in paper.prefill_clusters)
    )
    moved = document(answer(doubled, Title("doubled"), sensitivity=False))
    assert moved["lambda_rps"] > 1.3 * figures["lambda_rps"]
    assert moved["threshold_tokens"] < figures["threshold_tokens"]
    # T(E[L | L > t]) of a lower threshold is shorter: more than twice the offloaded rate.
    assert moved["theta_prfaas"] > 2 * figures["theta_prfaas"]


def test_twin_a_faster_decode_step_only_moves_decode(paper, figures):
    cluster = paper.local_clusters[0]
    decode = replace(cluster.hardware.decode, step_seconds=(0.0125,))
    faster = replace(cluster, hardware=replace(cluster.hardware, decode=decode))
    plan = solve(replace(paper, local_clusters=(faster,)))
    per_instance = plan.locals[0].theta_pd_d / plan.n_d
    assert per_instance == pytest.approx(2 * figures["theta_pd_d"] / figures["n_d"])
    assert plan.n_d < figures["n_d"]


@pytest.mark.parametrize(
    ("gbps", "lambda_rps", "tolerance"),
    [(100, 3.24, 0.01), (13, 3.24, 0.01), (10, 3.03, 0.02), (5, 2.26, 0.02), (2, 1.62, 0.01)],
)
def test_bandwidth_sweep(paper, gbps, lambda_rps, tolerance):
    point = sweep(paper, Axis.BANDWIDTH_GBPS, [gbps])[0]
    assert point.lambda_rps == pytest.approx(lambda_rps, rel=tolerance)
    assert point.egress_gbps <= gbps * (1 + 1e-9)


def test_below_3_gbps_a_capped_grid_says_what_its_cap_costs(paper):
    """A grid to 60,000 tokens finds 1.40 at 2 Gbit/s; the best threshold lies above its edge."""
    capped = replace(paper, search=Search(paper.search.step_tokens, 60_000))
    at_2, at_5 = sweep(capped, Axis.BANDWIDTH_GBPS, [2, 5])
    assert at_2.thresholds_tokens == (60_000,)
    assert at_2.lambda_rps == pytest.approx(1.40, rel=0.03)
    assert at_2.whole_grid_rps == pytest.approx(1.62, rel=0.01)
    assert at_5.whole_grid_rps is None
    whole = solve(replace(with_bandwidth(paper, 2.0), search=Search()))
    assert whole.lambda_rps == at_2.whole_grid_rps
    assert whole.locals[0].threshold_tokens == 65_600
    assert whole.egress_gbps <= 2.0 * (1 + 1e-9)


def test_more_bandwidth_than_the_machines_fill_changes_nothing(paper):
    at_13, at_1000 = sweep(paper, Axis.BANDWIDTH_GBPS, [13, 1000])
    assert at_13.lambda_rps == at_1000.lambda_rps


def test_a_round_trip_costs_latency_but_no_rate(paper):
    rate = 2.0
    near, far = sweep(paper, Axis.RTT_MS, [0, 200], rate)
    assert near.lambda_rps == far.lambda_rps
    assert near.ttft_p90_seconds + 0.3 < far.ttft_p90_seconds < near.ttft_p90_seconds + 0.6


def test_a_codec_does_what_as_much_more_bandwidth_does(paper):
    narrow = with_bandwidth(paper, 4.0)
    halved = solve(with_value(narrow, Axis.STATE_RATIO, 2.0))
    assert halved.lambda_rps == pytest.approx(solve(with_bandwidth(paper, 8.0)).lambda_rps)
    assert halved.egress_gbps <= 4.0 * (1 + 1e-9)


def test_the_document_is_plain_json(figures):
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["advice"].endswith(".")
