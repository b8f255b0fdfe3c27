"""Where a cloud is entered, and with whose keys: the same for a platform and for a small cloud."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefill_cloud import AsyncClient

from prefill_stack.local_cloud import LocalCloud
from prefill_stack.platform.platform import Platform


@dataclass(frozen=True)
class Door:
    """An endpoint, one key a tenant, and the control key that clients pin."""

    endpoint: str
    keys: Mapping[str, str] = field(repr=False)
    control_public_key: bytes

    @classmethod
    def of_platform(cls, platform: Platform) -> "Door":
        """The gateway of the platform's first datacenter."""
        endpoint = next(iter(platform.endpoints.values()))
        return cls(endpoint, platform.tenant_keys, platform.control_public_key)

    @classmethod
    def of_cloud(cls, cloud: LocalCloud) -> "Door":
        """The gateway of a small cloud."""
        keys = {key.tenant: key.secret for key in cloud.keys}
        return cls(cloud.endpoint, keys, cloud.control_public_key)

    def client(self, tenant: str) -> AsyncClient:
        """An SDK client with this tenant's key; equal tokens are promised, so states are exact."""
        return AsyncClient(
            self.endpoint,
            self.keys[tenant],
            control_public_key=self.control_public_key,
            codec_policy="exact",
        )
