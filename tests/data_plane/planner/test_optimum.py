"""The optimum against brute force, and what must never lower it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefill_data.planner.assign import Offload, balance, resources
from prefill_data.planner.costs import with_bandwidth
from prefill_data.planner.errors import InfeasibleError, InvalidInputError
from prefill_data.planner.fleet import Form, Search
from prefill_data.planner.loading import load_case
from prefill_data.planner.plan import Choice, evaluate
from prefill_data.planner.regions import solve_regions
from prefill_data.planner.simplex import minimise
from prefill_data.planner.solver import demands_of, homogeneous, solve, without_remote
from prefill_data.planner.sweeps import Axis, with_value

machines = st.integers(1, 6)
fleets = st.fixed_dictionaries(
    {
        "remotes": st.lists(machines, min_size=1, max_size=2).map(tuple),
        "locals": st.lists(st.integers(2, 6), min_size=1, max_size=2).map(tuple),
        "gbps": st.floats(0.05, 50),
        "slowdown": st.floats(0.5, 10),
    }
)
quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SLACK = 1 - 1e-6


def coarse(scenario):
    return replace(scenario, search=replace(scenario.search, step_tokens=1000))


@given(knobs=fleets, factor=st.floats(1, 20))
@quick
def test_more_bandwidth_never_lowers_the_optimum(fleet, knobs, factor):
    scenario = coarse(fleet(**knobs).scenario())
    wider = with_bandwidth(scenario, knobs["gbps"] * factor)
    assert solve(wider).lambda_rps >= solve(scenario).lambda_rps * SLACK


@given(knobs=fleets, kind=st.sampled_from(["remotes", "locals"]), more=st.integers(1, 3))
@quick
def test_more_machines_never_lower_the_optimum(fleet, knobs, kind, more):
    first, *rest = knobs[kind]
    grown = knobs | {kind: (first + more, *rest)}
    before = solve(coarse(fleet(**knobs).scenario())).lambda_rps
    assert solve(coarse(fleet(**grown).scenario())).lambda_rps >= before * SLACK


@given(knobs=fleets, ratio=st.floats(1, 10))
@quick
def test_a_better_codec_never_lowers_the_optimum(fleet, knobs, ratio):
    scenario = coarse(fleet(**knobs).scenario())
    better = with_value(scenario, Axis.STATE_RATIO, ratio)
    assert solve(better).lambda_rps >= solve(scenario).lambda_rps * SLACK


alone = {"locals": st.integers(2, 6).map(lambda n: (n,)), "remotes": machines.map(lambda n: (n,))}


@given(
    knobs=st.fixed_dictionaries(alone | {"gbps": st.floats(0.05, 50)}),
    factor=st.floats(1, 20),
    last_tokens=st.none() | st.integers(2000, 90_000),
)
@quick
def test_nothing_more_lowers_the_optimum_in_the_papers_form(fleet, knobs, factor, last_tokens):
    """Representative lengths, and a capped grid as in the paper's case."""
    search = Search(1000, last_tokens)
    scenario = replace(fleet(**knobs).scenario(), form=Form.REPRESENTATIVE, search=search)
    before = solve(scenario).lambda_rps * SLACK
    assert solve(with_bandwidth(scenario, knobs["gbps"] * factor)).lambda_rps >= before
    assert solve(with_value(scenario, Axis.STATE_RATIO, factor)).lambda_rps >= before
    assert solve(with_value(scenario, Axis.HARDWARE_RATIO, factor)).lambda_rps >= before
    for kind in ("prefill_clusters", "local_clusters"):
        (cluster,) = getattr(scenario, kind)
        grown = replace(cluster, instances=cluster.instances + 2)
        assert solve(replace(scenario, **{kind: (grown,)})).lambda_rps >= before


@given(knobs=fleets)
@quick
def test_no_resource_is_overfull_and_one_is_full(fleet, knobs):
    plan = solve(coarse(fleet(**knobs).scenario()))
    assert max(plan.utilisation.values()) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(plan.lambda_rps)
    assert all(0 <= share <= 1 + 1e-9 for share in plan.shares.flat)


@given(knobs=fleets.filter(lambda k: len(k["locals"]) == 1))
@quick
def test_both_solvers_agree_for_one_local_cluster(fleet, knobs):
    scenario = coarse(fleet(**knobs).scenario())
    found = solve_regions(scenario, demands_of(scenario))
    assert found.lambda_rps == pytest.approx(solve(scenario).lambda_rps, rel=1e-6)


def test_two_regions_against_brute_force(fleet):
    scenario = fleet(remotes=(1, 2), locals=(2, 3), gbps=2.0).scenario()
    scenario = replace(scenario, search=replace(scenario.search, step_tokens=15_000))
    demands = demands_of(scenario)
    thresholds = range(len(demands[0].thresholds_tokens))
    best = 0.0
    for n_p in itertools.product(range(3), range(4)):
        for index in itertools.product(thresholds, thresholds):
            choices = [Choice(i, n) for i, n in zip(index, n_p, strict=True)]
            best = max(best, evaluate(scenario, demands, choices).lambda_rps)
    assert solve(scenario).lambda_rps == pytest.approx(best, rel=1e-6)


@given(
    loads=st.lists(st.floats(0.01, 5), min_size=8, max_size=8),
    gbps=st.floats(0.1, 10),
)
@quick
def test_shares_are_the_best_of_a_fine_grid(fleet, loads, gbps):
    scenario = fleet(remotes=(1, 2), locals=(2, 2), gbps=gbps).scenario()
    offloads = [
        Offload(cluster, 0.5, np.array(loads[k : k + 2]), 1e8 * np.array(loads[k + 4 : k + 6]))
        for cluster, k in zip(scenario.local_clusters, (0, 2), strict=True)
    ]
    found = balance(scenario, offloads)
    rows = np.array(list(resources(scenario, offloads).values()))
    steps = np.linspace(0, 1, 41)
    busiest = min(
        (rows * np.array([[a, b], [1 - a, 1 - b]])).sum(axis=(1, 2)).max()
        for a in steps
        for b in steps
    )
    assert found.utilisation <= busiest * (1 + 1e-9)
    assert found.shares.sum(axis=0) == pytest.approx([1, 1])


def test_the_simplex_on_a_known_program():
    # max 3x + 5y with x <= 4, 2y <= 12, 3x + 2y <= 18: x = 2, y = 6.
    equalities = np.array([[1.0, 0, 1, 0, 0], [0, 2, 0, 1, 0], [3, 2, 0, 0, 1]])
    found = minimise(np.array([-3.0, -5, 0, 0, 0]), equalities, np.array([4.0, 12, 18]))
    assert found[:2] == pytest.approx([2, 6])
    contradiction = np.array([[1.0], [1.0]])
    assert minimise(np.array([1.0]), contradiction, np.array([1.0, 2.0])) is None


def test_residency_is_never_crossed():
    _, scenario = load_case("enterprise")
    plan = solve(scenario)
    names = [cluster.name for cluster in scenario.prefill_clusters]
    assert plan.shares[names.index("prefill-us"), 0] == 0
    assert plan.locals[0].long_fraction > 0
    free = replace(scenario.local_clusters[0], residency=None)
    anywhere = replace(scenario, local_clusters=(free, *scenario.local_clusters[1:]))
    assert solve(anywhere).lambda_rps >= plan.lambda_rps * SLACK


def test_residency_without_a_remote_cluster_keeps_prompts_home():
    _, scenario = load_case("enterprise")
    moon = replace(scenario.local_clusters[0], residency=("moon",))
    plan = solve(replace(scenario, local_clusters=(moon, *scenario.local_clusters[1:])))
    assert plan.locals[0].long_fraction == 0
    assert plan.shares[:, 0].sum() == 0


def test_nothing_offloaded_and_everything_offloaded_are_plans(fleet):
    nothing = solve(fleet(gbps=1e-6).scenario())
    assert nothing.locals[0].long_fraction == 0
    assert nothing.theta_prfaas == 0
    everything = solve(fleet(remotes=(60,), gbps=1e4, locals=(2,), slowdown=200).scenario())
    assert everything.locals[0].long_fraction == 1
    assert everything.n_p == 0
    assert everything.locals[0].theta_pd_p == 0


def test_a_fleet_that_cannot_decode_is_infeasible(fleet):
    alone = fleet(remotes=(0,), locals=(1,)).scenario()
    with pytest.raises(InfeasibleError, match="no request can be served"):
        solve(alone)


def test_the_representative_form_is_refused_where_it_proves_nothing(fleet):
    scenario = fleet(locals=(3, 3)).scenario()
    cloud = scenario.prefill_clusters[0]
    bent = replace(
        cloud.hardware.prefill, tokens=(100, 80_000, 100_000), values=(0.001, 0.002, 90.0)
    )
    steep = replace(cloud, hardware=replace(cloud.hardware, prefill=bent))
    scenario = replace(scenario, prefill_clusters=(steep,), form=Form.REPRESENTATIVE)
    with pytest.raises(InvalidInputError, match="rises with the threshold") as caught:
        solve(scenario)
    assert "expectation" in caught.value.remedy


def test_the_greedy_local_fleet_is_the_best_of_all(fleet):
    scenario = fleet(locals=(2, 4)).scenario()
    price = {"l0": 1, "l1": 1}
    _, plan = homogeneous(scenario, 5, price)
    rates = []
    for extra in range(6):
        bigger = fleet(locals=(2 + extra, 9 - extra)).scenario()
        rates.append(solve(without_remote(bigger, {})).lambda_rps)
    assert plan.lambda_rps == pytest.approx(max(rates), rel=1e-6)
