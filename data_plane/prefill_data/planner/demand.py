"""What one arrival costs each stage, for every threshold of the grid (eqs. 3-5, per arrival).

All demands are per request *arriving*, so that eq. 6 is rate <= capacity / demand and p = 0 or 1
needs no special case: a stage nobody uses has demand 0.
"""

from dataclasses import dataclass

import numpy as np

from prefill_data.planner.curves import Curve, Floats
from prefill_data.planner.errors import InvalidInputError
from prefill_data.planner.fleet import Form, LocalCluster, Scenario

MAX_THRESHOLDS = 15_000


@dataclass(frozen=True, eq=False)
class Demand:
    """Arrays over the threshold grid `[m]` for one local cluster; `[i, m]` over prefill clusters.

    `short_seconds` = (1-p) T_local(short), `long_seconds` = p T_i(long), `long_bytes` = p S_kv;
    `reachable [i]` by link and residency; `decode_rps` is one decode instance's rate (eq. 5).
    """

    thresholds_tokens: Floats
    long_fraction: Floats
    long_tokens: Floats
    short_tokens: Floats
    short_seconds: Floats
    long_seconds: Floats
    long_bytes: Floats
    reachable: tuple[bool, ...]
    decode_rps: float
    decode_slots: int
    decode_step_seconds: float


def threshold_grid(scenario: Scenario) -> Floats:
    """Thresholds in tokens; the last one keeps every prompt local unless the search is capped."""
    longest = max(cluster.lengths.longest_tokens for cluster in scenario.local_clusters)
    step, last = scenario.search.step_tokens, scenario.search.last_tokens
    if not scenario.prefill_clusters:  # nobody to send prompts to: one threshold, above them all
        return np.array([step * np.ceil(longest / step)])
    stop = longest + step if last is None else min(longest + step, last + step / 2)
    if stop / step > MAX_THRESHOLDS:
        raise InvalidInputError(
            "search.step_tokens",
            f"{step} makes {stop / step:,.0f} thresholds, the limit is {MAX_THRESHOLDS:,}",
            "take a larger step: 100 tokens is fine enough for prompts of 128K",
        )
    return np.arange(0.0, stop, step)


def demand(scenario: Scenario, cluster: LocalCluster) -> Demand:
    """The demand table of one local cluster."""
    lengths, grid = cluster.lengths, threshold_grid(scenario)
    tails = _Tails(lengths.tokens, lengths.weights, grid, scenario.form)
    decode = cluster.hardware.decode
    if decode is None:  # LocalCluster refuses it; said again for the type checker
        raise TypeError(cluster.name)
    slots, step_seconds = decode.slots(
        scenario.slo.decode_tokens_per_second, "slo.decode_tokens_per_second"
    )
    remotes = scenario.prefill_clusters
    _require_measured(scenario, cluster, float(grid[-1]))
    shape = (len(remotes), len(grid))
    return Demand(
        thresholds_tokens=grid,
        long_fraction=tails.long_weight,
        long_tokens=_ratio(tails.long_tokens, tails.long_weight),
        short_tokens=_ratio(tails.short_tokens, tails.short_weight),
        short_seconds=tails.short(cluster.hardware.prefill),
        long_seconds=_rows([tails.long(r.hardware.prefill) for r in remotes], shape),
        long_bytes=_rows(
            [tails.long(scenario.codec.state_curve(r.hardware)) for r in remotes], shape
        ),
        reachable=tuple(scenario.link(remote, cluster) is not None for remote in remotes),
        decode_rps=slots / (step_seconds * lengths.mean_output_tokens),
        decode_slots=slots,
        decode_step_seconds=step_seconds,
    )


def _require_measured(scenario: Scenario, cluster: LocalCluster, last_threshold: float) -> None:
    """Raise MissingProfilePointError unless the longest prompts lie within every profile."""
    longest = cluster.lengths.longest_tokens
    cluster.hardware.prefill.at(np.array([min(longest, last_threshold)]))
    for remote in scenario.prefill_clusters:
        remote.hardware.prefill.at(np.array([longest]))
        scenario.codec.state_curve(remote.hardware).at(np.array([longest]))


class _Tails:
    """Sums over the lengths above and up to each threshold, in either form."""

    def __init__(self, tokens: Floats, weights: Floats, grid: Floats, form: Form) -> None:
        self._tokens, self._weights, self._form = tokens, weights, form
        self._stays = np.minimum(tokens, grid[-1])  # nothing longer is ever local
        # The first atom above each threshold: L <= t stays local (the paper's rule).
        self._cut = np.searchsorted(tokens, grid, side="right")
        long_weight, short_weight = self._sums(np.ones_like(tokens))
        self.long_weight, self.short_weight = (
            np.minimum(1, long_weight),
            np.minimum(1, short_weight),
        )
        self.long_tokens, self.short_tokens = self._sums(tokens)

    def _sums(self, values: Floats) -> tuple[Floats, Floats]:
        parts = self._weights * values
        upward = np.concatenate(([0.0], np.cumsum(parts)))
        downward = np.concatenate((np.cumsum(parts[::-1])[::-1], [0.0]))
        return downward[self._cut], upward[self._cut]

    def long(self, curve: Curve) -> Floats:
        if self._form is Form.EXPECTATION:
            return self._sums(curve.at(self._tokens))[0]
        return self.long_weight * curve.at(_ratio(self.long_tokens, self.long_weight))

    def short(self, curve: Curve) -> Floats:
        if self._form is Form.EXPECTATION:
            return self._sums(curve.at(self._stays))[1]
        return self.short_weight * curve.at(_ratio(self.short_tokens, self.short_weight))


def _rows(rows: list[Floats], shape: tuple[int, int]) -> Floats:
    return np.stack(rows) if rows else np.zeros(shape)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Element-wise quotient, 0 where nothing is divided by nothing."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
