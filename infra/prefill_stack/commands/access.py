"""How commands reach a cloud: what `up` left in its folder, or the options that replace it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from prefill_cloud import AsyncClient

    from prefill_stack.local_cloud import Credentials


@dataclass(frozen=True)
class Access:
    """The options of a command that talks to a cloud."""

    directory: Path
    endpoint: str | None
    api_key: str | None
    control_key: str | None
    tls_roots: Path | None

    def credentials(self) -> "Credentials":
        """The options together, or what `up` left; NotConfigured when neither is there."""
        from prefill_stack.local_cloud import Credentials, load_credentials

        if self.endpoint and self.api_key and self.control_key:
            authority = str(self.tls_roots) if self.tls_roots is not None else ""
            return Credentials(self.endpoint, self.api_key, self.control_key, authority)
        if self.endpoint or self.control_key:
            raise NotConfigured(
                "--endpoint, --api-key and --control-key go together",
                "give all three, or none to use the cloud that `up` started here",
            )
        return load_credentials(self.directory)


def open_client(credentials: "Credentials") -> "AsyncClient":
    """The SDK's client with these credentials; NotConfigured for a control key that is no hex."""
    from prefill_cloud import AsyncClient

    try:
        control = bytes.fromhex(credentials.control_public_key)
    except ValueError:
        raise NotConfigured(
            "the control key is not hexadecimal", "copy all 64 digits that `up` printed"
        ) from None
    return AsyncClient(
        credentials.endpoint,
        credentials.api_key,
        control_public_key=control,
        tls_roots=credentials.tls_roots,
    )
