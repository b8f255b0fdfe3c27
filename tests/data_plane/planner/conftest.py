"""The paper's scenario, a small fleet to vary, and a slow and obvious FCFS simulation."""

import heapq
from dataclasses import dataclass

import numpy as np
import pytest
from prefill_data.planner.curves import DecodeCurve, PolynomialCurve, TableCurve
from prefill_data.planner.fleet import Hardware, Link, LocalCluster, PrefillCluster, Scenario, Slo
from prefill_data.planner.lengths import histogram
from prefill_data.planner.loading import load_case


@pytest.fixture(scope="session")
def paper():
    return load_case("paper")[1]


@dataclass(frozen=True)
class Fleet:
    """Knobs of a small fleet; `scenario()` builds it."""

    remotes: tuple[int, ...] = (2,)
    locals: tuple[int, ...] = (4,)
    gbps: float = 5.0
    slowdown: float = 3.0

    def scenario(self):
        prefill = TableCurve("prefill", (100, 10_000, 100_000), (0.1, 0.5, 8.0))
        slow = TableCurve(
            "slow", (100, 10_000, 100_000), tuple(self.slowdown * v for v in (0.1, 0.5, 8.0))
        )
        state = PolynomialCurve("state", (4e7, 9000.0), 100_000)
        decode = DecodeCurve("decode", (8, 16), (0.015, 0.02))
        cloud = Hardware("cloud", "made up", prefill, state)
        box = Hardware("box", "made up", slow, state, decode)
        lengths = histogram([(500, 3), (4000, 3), (20_000, 2), (60_000, 1), (90_000, 1)], 500)
        share = 1 / len(self.locals)
        remotes = [
            PrefillCluster(f"r{i}", "", cloud, n, self.gbps, 4_000_000)
            for i, n in enumerate(self.remotes)
        ]
        locals_ = [
            LocalCluster(f"l{j}", "", box, n, lengths, share, None, 1_000_000)
            for j, n in enumerate(self.locals)
        ]
        links = [Link(r.name, x.name, self.gbps, 20.0) for r in remotes for x in locals_]
        return Scenario(tuple(remotes), tuple(locals_), tuple(links), Slo(40.0))


@pytest.fixture(scope="session")
def fleet():
    return Fleet


def fcfs_waits(arrivals, services, servers):
    """Waits of k equal servers, first come first served: a heap of when each becomes free."""
    free = [0.0] * servers
    waits = []
    for arrival, service in zip(arrivals.tolist(), services.tolist(), strict=True):
        start = max(free[0], arrival)
        heapq.heapreplace(free, start + service)
        waits.append(start - arrival)
    return np.array(waits)


@pytest.fixture(scope="session")
def simulate():
    """(seconds, weights, rate, servers, count, seed) -> (waits, services), without the warm-up."""

    def run(seconds, weights, rate, servers, count=400_000, seed=1):
        random = np.random.default_rng(seed)
        cumulative = np.cumsum(weights) / np.sum(weights)
        index = np.searchsorted(cumulative, random.random(count), side="right")
        services = seconds[np.minimum(index, len(seconds) - 1)]
        arrivals = np.cumsum(random.exponential(1 / rate, count))
        waits = fcfs_waits(arrivals, services, servers)
        return waits[count // 20 :], services[count // 20 :]

    return run


@pytest.fixture(scope="session")
def fcfs():
    return fcfs_waits
