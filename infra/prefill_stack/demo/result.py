"""What the demo found out, and whether it is what we promise."""

from dataclasses import asdict, dataclass, field
from math import inf

# FP32 sums in another order: measured differences are a few 1e-6; the promise is 1e-4.
LOGIT_TOLERANCE = 1e-4
DISTINCT_TOKENS = 24
RECALL = 0.99
RECALL_ZEROED = 0.5
# Mean KL in nats that a policy may cost, as published for held-out code.
KL_BOUNDS = {"near-lossless": 1e-5, "compact": 3e-4}


@dataclass
class DemoResult:
    """The keys of `demo --json`; every scene fills its own."""

    prompt_tokens: int = 0
    tokens_equal: bool = False
    distinct_tokens: int = 0
    max_abs_logit_difference: float = float("inf")
    state_bytes_raw: int = 0
    state_bytes_sent: int = 0
    timeline_ms: dict[str, float] = field(default_factory=dict)
    mqar_recall: float = 0.0
    mqar_recall_zeroed: float = 1.0
    concurrent_equal: bool = False
    fallback_tokens_equal: bool = False
    usage_rows_after_kill: int = -1
    usage_row_read_back: bool = False
    bytes_on_wire: dict[str, int] = field(default_factory=dict)
    policy_kl: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0

    def document(self) -> dict[str, object]:
        """The JSON object."""
        return asdict(self)

    def broken_promises(self) -> list[str]:
        """Every promise that this run did not keep, in words."""
        checks = {
            "the cloud's tokens differ from plain transformers": self.tokens_equal,
            "the completion repeats itself": self.distinct_tokens >= DISTINCT_TOKENS,
            "logits differ by more than 1e-4": self.max_abs_logit_difference <= LOGIT_TOLERANCE,
            "recall through the cloud is below 99%": self.mqar_recall >= RECALL,
            "recall without the state is not below 50%": self.mqar_recall_zeroed < RECALL_ZEROED,
            "two tenants at once did not both get exact tokens": self.concurrent_equal,
            "tokens after the kill differ": self.fallback_tokens_equal,
            "the long prompt's usage row is not in the API": self.usage_row_read_back,
            "the killed request left a receipt": self.usage_rows_after_kill == 0,
        }
        checks |= {
            f"{policy} costs more than {bound} nats": self.policy_kl.get(policy, inf) <= bound
            for policy, bound in KL_BOUNDS.items()
        }
        return [promise for promise, kept in checks.items() if not kept]
