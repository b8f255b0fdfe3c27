"""Waiting times against exact formulas and against a simulation of the paper's pools."""

import math

import numpy as np
import pytest
from prefill_data.planner.answers import Title, answer
from prefill_data.planner.errors import InfeasibleError
from prefill_data.planner.latency import bare_ttft, greatest_rate, ttft
from prefill_data.planner.queueing import (
    NO_WAIT,
    Service,
    allen_cunneen_seconds,
    erlang_c,
    waiting_time,
)
from prefill_data.planner.solver import solve

ATOMS = 20_000
EXPONENTIAL = Service(
    -np.log1p(-(np.arange(ATOMS) + 0.5) / ATOMS), np.full(ATOMS, 1 / ATOMS)
)  # mean 1
FIXED = Service(np.array([1.0]), np.array([1.0]))
TWO_SIZES = Service(np.array([0.2, 3.0]), np.array([0.8, 0.2]))


def quantile(wait, level, service=None):
    """The level's quantile of the wait, or of wait + service, by bisection."""
    seconds, weights = (
        (np.zeros(1), np.ones(1)) if service is None else (service.seconds, service.weights)
    )
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        if float(weights @ wait.cdf(middle - seconds)) < level:
            low = middle
        else:
            high = middle
    return high


@pytest.mark.parametrize("utilisation", [0.2, 0.5, 0.8, 0.9, 0.97])
def test_mm1_is_exact(utilisation):
    wait = waiting_time(EXPONENTIAL, utilisation, 1)
    assert wait.mean_seconds == pytest.approx(utilisation / (1 - utilisation), rel=0.01)
    sojourn_p90 = math.log(10) / (1 - utilisation)
    assert quantile(wait, 0.9, EXPONENTIAL) == pytest.approx(sojourn_p90, rel=0.01)


@pytest.mark.parametrize("service", [FIXED, TWO_SIZES, EXPONENTIAL])
@pytest.mark.parametrize("utilisation", [0.3, 0.7, 0.9])
def test_mg1_mean_is_pollaczek_khinchine(service, utilisation):
    rate = utilisation / service.moment(1)
    exact = rate * service.moment(2) / (2 * (1 - utilisation))
    assert waiting_time(service, rate, 1).mean_seconds == pytest.approx(exact, rel=0.01)


def test_md1_distribution_is_erlangs_series():
    """P(W <= x) = (1-r) sum_{j<=x} (r (j-x))^j / j! exp(r (x-j)), for D = 1."""
    rate = 0.7
    wait = waiting_time(FIXED, rate, 1)
    for x in (0.5, 1.5, 3.25, 6.0):
        terms = range(math.floor(x) + 1)
        exact = (1 - rate) * sum(
            (rate * (j - x)) ** j / math.factorial(j) * math.exp(rate * (x - j)) for j in terms
        )
        assert float(wait.cdf(np.array(x))) == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize("servers", [2, 4, 60])
@pytest.mark.parametrize("utilisation", [0.5, 0.85])
def test_mmk_is_exact(servers, utilisation):
    rate = utilisation * servers
    wait = waiting_time(EXPONENTIAL, rate, servers)
    probability = erlang_c(rate, servers)
    exact = probability / (servers - rate)
    assert wait.mean_seconds == pytest.approx(exact, rel=0.01)
    tail = probability * math.exp(-(servers - rate) * exact)
    assert 1 - float(wait.cdf(np.array(exact))) == pytest.approx(tail, abs=0.01 * probability)


def test_erlang_c_known_value():
    # Two servers, one Erlang: a * a/2 / (1 - a/2) / (1 + a + ...) = 1/3.
    assert erlang_c(1.0, 2) == pytest.approx(1 / 3)


def test_the_simulation_itself_is_right(simulate):
    waits, _ = simulate(EXPONENTIAL.seconds, EXPONENTIAL.weights, 0.6, 1)
    assert waits.mean() == pytest.approx(1.5, rel=0.03)


def pools(paper):
    """The paper's four pools: service seconds, weights and machines."""
    tokens, weights = (
        paper.local_clusters[0].lengths.tokens,
        paper.local_clusters[0].lengths.weights,
    )
    long = tokens > 19_400
    fast = paper.prefill_clusters[0].hardware.prefill.at
    slow = paper.local_clusters[0].hardware.prefill.at
    parts = {
        "prfaas": (fast(tokens[long]), weights[long], 4),
        "pd_p": (slow(tokens[~long]), weights[~long], 3),
        "homogeneous": (slow(tokens), weights, 9),
        "naive": (fast(tokens), weights, 4),
    }
    return {name: (Service(s, w / w.sum()), k) for name, (s, w, k) in parts.items()}


@pytest.mark.parametrize("load", [0.5, 0.7, 0.85])
@pytest.mark.parametrize("name", ["prfaas", "pd_p", "homogeneous", "naive"])
def test_the_papers_pools_against_simulation(paper, simulate, name, load):
    service, servers = pools(paper)[name]
    rate = load * servers / service.moment(1)
    waits, services = simulate(service.seconds, service.weights, rate, servers)
    simulated = waits + services
    wait = waiting_time(service, rate, servers)
    assert wait.mean_seconds + service.moment(1) == pytest.approx(simulated.mean(), rel=0.03)
    p90 = quantile(wait, 0.9, service)
    assert p90 == pytest.approx(np.quantile(simulated, 0.9), rel=0.04)


def test_twin_the_comparison_sees_a_load_that_is_wrong_by_four_points(paper, simulate):
    service, servers = pools(paper)["pd_p"]
    capacity = servers / service.moment(1)
    waits, services = simulate(service.seconds, service.weights, 0.85 * capacity, servers)
    wrong = waiting_time(service, 0.89 * capacity, servers)
    simulated = waits + services
    assert wrong.mean_seconds + service.moment(1) > 1.03 * simulated.mean()
    assert quantile(wrong, 0.9, service) > 1.04 * np.quantile(simulated, 0.9)


def test_allen_cunneen_agrees_in_the_mean(paper):
    for service, servers in pools(paper).values():
        rate = 0.85 * servers / service.moment(1)
        stated = allen_cunneen_seconds(service, rate, servers)
        assert waiting_time(service, rate, servers).mean_seconds == pytest.approx(stated, rel=0.06)


def test_the_parts_add_up_and_grow_with_the_rate(paper):
    plan = solve(paper)
    before = bare_ttft(paper, plan)
    for rate in (0.0, 1.0, 2.0, 2.9):
        times = ttft(paper, plan, rate)
        parts = times.queue_seconds + times.prefill_seconds
        parts += times.exposed_wire_seconds + times.rtt_seconds
        assert times.mean_seconds == pytest.approx(parts)
        assert times.mean_seconds > before.mean_seconds
        assert times.p50_seconds < times.p90_seconds < times.p99_seconds
        before = times


def test_the_greatest_rate_meets_its_target_and_no_more(paper):
    plan = solve(paper)
    rate = greatest_rate(paper, plan, 6.0)
    assert ttft(paper, plan, rate).p90_seconds <= 6.0 * (1 + 1e-6)
    assert ttft(paper, plan, 1.01 * rate).p90_seconds > 6.0


def test_an_impossible_target_says_by_how_much(paper):
    plan = solve(paper)
    with pytest.raises(InfeasibleError, match="idle fleet") as caught:
        greatest_rate(paper, plan, 1.0)
    idle = ttft(paper, plan, 0.0).p90_seconds
    assert caught.value.shortfall == pytest.approx(idle - 1)
    assert caught.value.remedy
    slo = type(paper.slo)(40.0, 1.0)
    told = answer(replace_slo(paper, slo), Title("x"), sensitivity=False).slo
    assert told.rate_rps is None
    assert told.missed_by == pytest.approx(idle - 1)


def replace_slo(scenario, slo):
    from dataclasses import replace

    return replace(scenario, slo=slo)


def test_an_overloaded_pool_is_refused_with_the_number():
    with pytest.raises(InfeasibleError, match=r"110\.0%") as caught:
        waiting_time(FIXED, 2.2, 2)
    assert caught.value.shortfall == pytest.approx(0.1)


def test_sums_of_waits_keep_mean_and_idle_probability():
    first, second = waiting_time(FIXED, 0.5, 1), waiting_time(TWO_SIZES, 0.6, 1)
    both = first.plus(second)
    assert both.mean_seconds == pytest.approx(first.mean_seconds + second.mean_seconds, rel=1e-3)
    idle = (1 - first.wait_probability) * (1 - second.wait_probability)
    assert both.wait_probability == pytest.approx(1 - idle)
    assert first.plus(NO_WAIT) is first
