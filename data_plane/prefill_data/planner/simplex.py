"""A dense two-phase simplex for the few variables of traffic shares; Bland's rule, so it ends."""

import numpy as np

from prefill_data.planner.curves import Floats

TOLERANCE = 1e-9


def minimise(cost: Floats, equalities: Floats, values: Floats) -> Floats | None:
    """The x >= 0 with equalities @ x = values and least cost @ x; None if there is none.

    Shapes `[n]`, `[r, n]`, `[r]` with values >= 0. The cost must be bounded below on the set.
    """
    rows, columns = equalities.shape
    tableau = np.hstack([equalities, np.eye(rows), values[:, None]]).astype(np.float64)
    basis = list(range(columns, columns + rows))
    artificial = np.concatenate([np.zeros(columns), np.ones(rows)])
    _pivot_to_optimum(tableau, basis, artificial, columns + rows)
    if sum(tableau[r, -1] for r, b in enumerate(basis) if b >= columns) > TOLERANCE:
        return None
    _drive_out(tableau, basis, columns)
    _pivot_to_optimum(tableau, basis, np.concatenate([cost, np.zeros(rows)]), columns)
    solution = np.zeros(columns + rows)
    solution[basis] = tableau[:, -1]
    return solution[:columns]


def _pivot_to_optimum(tableau: Floats, basis: list[int], cost: Floats, columns: int) -> None:
    """Pivot until no column below `columns` lowers the cost."""
    while True:
        reduced = cost[:columns] - cost[basis] @ tableau[:, :columns]
        lowering = np.flatnonzero(reduced < -TOLERANCE)
        if not len(lowering):
            return
        entering = int(lowering[0])
        rows = np.flatnonzero(tableau[:, entering] > TOLERANCE)
        if not len(rows):
            raise ArithmeticError("the cost has no lower bound")
        steps = tableau[rows, -1] / tableau[rows, entering]
        tied = rows[steps <= steps.min() + TOLERANCE]
        _pivot(tableau, basis, min(tied.tolist(), key=lambda row: basis[row]), entering)


def _pivot(tableau: Floats, basis: list[int], row: int, column: int) -> None:
    tableau[row] /= tableau[row, column]
    others = tableau[:, column].copy()
    others[row] = 0.0
    tableau -= np.outer(others, tableau[row])
    basis[row] = column


def _drive_out(tableau: Floats, basis: list[int], columns: int) -> None:
    """Exchange artificial variables left in the basis at zero for real ones where possible."""
    for row, index in enumerate(basis):
        if index >= columns:
            real = np.flatnonzero(np.abs(tableau[row, :columns]) > TOLERANCE)
            if len(real):
                _pivot(tableau, basis, row, int(real[0]))
