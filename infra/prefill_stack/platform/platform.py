"""A platform that runs: where it answers and with what one gets in."""

from dataclasses import dataclass, field

from prefill_stack.platform.plan import PlatformPlan
from prefill_stack.platform.secrets import PlatformSecrets


@dataclass
class Platform:
    """A running platform.

    `operator` is the first operator's credential, and `fresh` says that it was made just now.
    """

    plan: PlatformPlan
    secrets: PlatformSecrets
    api_url: str = ""
    operator: str = field(default="", repr=False)
    fresh: bool = False
    endpoints: dict[str, str] = field(default_factory=dict)
    tenant_keys: dict[str, str] = field(repr=False, default_factory=dict)

    @property
    def control_public_key(self) -> bytes:
        """What SDKs pin."""
        return self.secrets.control_key.public_bytes
