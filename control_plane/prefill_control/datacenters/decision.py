"""Where a request would go, and why: every rule a step, in the order in which they bind. Pure.

Residency is a rule and comes first; nothing that follows can undo it. A preference is a wish: its
order decides among what is left, and only `fallback` opens what it does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """CLOUD: there; LOCAL: not worth the way; REFUSED: no datacenter may."""

    CLOUD = "cloud"
    LOCAL = "local"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One datacenter as the decision sees it; `price_micros` per million uncached tokens."""

    name: str
    jurisdiction: str
    state: str
    models: tuple[str, ...]
    rtt_ms: int
    price_micros: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A tenant's preference; empty `allow` allows all."""

    order: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    max_price_micros: int | None = None
    max_added_latency_ms: int | None = None
    fallback: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The request: what it is for, how long it is, and how much of it no local cache holds.

    `context_tokens`: what its model takes.
    """

    model: str
    token_count: int
    context_tokens: int
    uncached_tokens: int
    threshold_tokens: int
    residency: tuple[str, ...] = ()
    wish: Wish = Wish()


@dataclass(frozen=True, slots=True)
class Step:
    """One rule: who was left after it, and who fell by it."""

    rule: str
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """The decision; `reason` is the sentence that a person reads."""

    outcome: Outcome
    datacenter: str
    reason: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    keeps: Callable[[Site], bool]
    reason: str


def decide(question: Question, sites: Sequence[Site]) -> Route:
    """Apply the rules one after the other; the first that leaves nobody is the refusal's reason."""
    if question.uncached_tokens <= question.threshold_tokens:
        told = (
            f"{question.uncached_tokens} uncached tokens are not over the threshold of "
            f"{question.threshold_tokens}"
        )
        step = Step("threshold", (), (), told)
        return Route(Outcome.LOCAL, "", told, (step,))
    left = sorted(sites, key=lambda site: site.name)
    steps: list[Step] = []
    for rule in _rules(question):
        kept = [site for site in left if rule.keeps(site)]
        dropped = tuple(site.name for site in left if site not in kept)
        steps.append(Step(rule.name, tuple(s.name for s in kept), dropped, rule.reason))
        if not kept:
            told = f"no datacenter is left by the rule {rule.name}: {rule.reason}"
            return Route(Outcome.REFUSED, "", told, tuple(steps))
        left = kept
    return _choose(question.wish, left, steps)


def _rules(question: Question) -> list[_Rule]:
    wish = question.wish
    rules = [_Rule("model", lambda s: question.model in s.models, f"serves {question.model}")]
    if question.residency:
        names = ", ".join(question.residency)
        inside = frozenset(question.residency)
        rules.insert(0, _Rule("residency", lambda s: s.jurisdiction in inside, f"within {names}"))
    if question.token_count > question.context_tokens:
        most, asked = question.context_tokens, question.token_count
        told = f"{question.model} takes {most} tokens, not {asked}"
        rules.append(_Rule("context", lambda _: False, told))
    if wish.deny:
        rules.append(_Rule("deny", lambda s: s.name not in wish.deny, "not on the deny list"))
    if wish.allow:
        rules.append(_Rule("allow", lambda s: s.name in wish.allow, "on the allow list"))
    rules.append(_Rule("state", lambda s: s.state == "active", "takes new requests"))
    price, latency = wish.max_price_micros, wish.max_added_latency_ms
    if price is not None:
        told = f"at most {price} micros per million tokens"
        rules.append(
            _Rule("price", lambda s: s.price_micros is not None and s.price_micros <= price, told)
        )
    if latency is not None:
        rules.append(_Rule("latency", lambda s: s.rtt_ms <= latency, f"adds at most {latency} ms"))
    if wish.order and not wish.fallback:
        rules.append(_Rule("wish", lambda s: s.name in wish.order, "wished for; no fallback"))
    return rules


def _choose(wish: Wish, left: list[Site], steps: list[Step]) -> Route:
    ranks = {name: rank for rank, name in enumerate(wish.order)}
    best = min(left, key=lambda s: (ranks.get(s.name, len(ranks)), s.rtt_ms, s.name))
    told = (
        f"{best.name} is wish number {ranks[best.name] + 1}"
        if best.name in ranks
        else f"{best.name} is nearest, {best.rtt_ms} ms away"
    )
    others = tuple(site.name for site in left if site is not best)
    return Route(
        Outcome.CLOUD, best.name, told, (*steps, Step("order", (best.name,), others, told))
    )
