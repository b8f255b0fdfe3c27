"""`bench plan`: how long a plan, the whole answer and a 1,000-point sweep take on one core."""

import time

import numpy as np


def bench_plan() -> dict[str, object]:
    """Seconds for the shipped cases and for a bandwidth sweep of the paper's, re-optimised."""
    from prefill_data.planner.answers import Title, answer
    from prefill_data.planner.loading import load_case, shipped
    from prefill_data.planner.solver import solve
    from prefill_data.planner.sweeps import Axis, sweep

    result: dict[str, object] = {}
    for name in shipped("cases"):
        _, scenario = load_case(name)
        start = time.process_time()
        solve(scenario)
        solved = time.process_time()
        answer(scenario, Title(name))
        result[f"{name}_solve_seconds"] = solved - start
        result[f"{name}_answer_seconds"] = time.process_time() - solved
    _, scenario = load_case("paper")
    values = [float(v) for v in np.geomspace(1, 1000, 1000)]
    start = time.process_time()
    points = sweep(scenario, Axis.BANDWIDTH_GBPS, values)
    result["sweep_points"] = len(points)
    result["sweep_seconds"] = time.process_time() - start
    return result


run = bench_plan
