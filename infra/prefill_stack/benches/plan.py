"""`bench plan`: how long a plan, the whole answer and a 1,000-point sweep take on one core."""

import time

import numpy as np

SOLVE_LIMIT_SECONDS = 2.0
SWEEP_LIMIT_SECONDS = 60.0
SWEEP_POINTS = 1000


def run(sweep_points: int = SWEEP_POINTS, cases: tuple[str, ...] = ()) -> dict[str, object]:
    """CPU seconds for these cases (all) and a bandwidth sweep of the paper's, re-optimised."""
    from prefill_data.planner.answers import Title, answer
    from prefill_data.planner.loading import load_case, shipped
    from prefill_data.planner.solver import solve

    solves, answers = {}, {}
    for name in cases or shipped("cases"):
        _, scenario = load_case(name)
        start = time.process_time()
        solve(scenario)
        solved = time.process_time()
        answer(scenario, Title(name))
        solves[f"{name}_solve_seconds"] = solved - start
        answers[f"{name}_answer_seconds"] = time.process_time() - solved
    sweep_seconds = _sweep_seconds(sweep_points)
    within = max(solves.values()) < SOLVE_LIMIT_SECONDS and sweep_seconds < SWEEP_LIMIT_SECONDS
    return {
        **solves,
        **answers,
        "sweep_points": sweep_points,
        "sweep_seconds": sweep_seconds,
        "solve_limit_seconds": SOLVE_LIMIT_SECONDS,
        "sweep_limit_seconds": SWEEP_LIMIT_SECONDS,
        "within_limits": within,
    }


def _sweep_seconds(points: int) -> float:
    from prefill_data.planner.loading import load_case
    from prefill_data.planner.sweeps import Axis, sweep

    _, scenario = load_case("paper")
    values = [float(v) for v in np.geomspace(1, 1000, points)]
    start = time.process_time()
    sweep(scenario, Axis.BANDWIDTH_GBPS, values)
    return time.process_time() - start
