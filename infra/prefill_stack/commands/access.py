"""How commands reach a cloud: what `up` left in its folder, or the options that replace it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefill_stack.errors import NotConfigured

if TYPE_CHECKING:
    from prefill_cloud import AsyncClient
    from prefill_cloud.manage import ManagementClient

    from prefill_stack.local_cloud import Credentials


@dataclass(frozen=True)
class Access:
    """The options of a command that talks to a cloud."""

    directory: Path
    endpoint: str | None
    api_key: str | None = field(repr=False)
    control_key: str | None
    tls_roots: Path | None

    def credentials(self) -> "Credentials":
        """The options together, or what `up` left, with the key of the options when they have one:
        a key that was given and not used would bill somebody else. NotConfigured for less."""
        from prefill_stack.local_cloud import Credentials, load_credentials

        if self.endpoint and self.api_key and self.control_key:
            authority = str(self.tls_roots) if self.tls_roots is not None else ""
            return Credentials(self.endpoint, self.api_key, self.control_key, authority)
        if self.endpoint or self.control_key:
            raise NotConfigured(
                "--endpoint, --api-key and --control-key go together",
                "give all three, or none to use the cloud that `up` started here",
            )
        if self.tls_roots is not None:
            raise NotConfigured(
                "--tls-roots is of a cloud that --endpoint names",
                "give --endpoint, or leave it out",
            )
        left = load_credentials(self.directory)
        return replace(left, api_key=self.api_key) if self.api_key else left


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


CREDENTIAL_VARIABLE = "PREFILL_CREDENTIAL"


@dataclass(frozen=True)
class ManagementAccess:
    """The options of a command that talks to the management API.

    The operator's credential that `up` left goes to the cloud that `up` started and nowhere else:
    another URL needs a credential of its own.
    """

    directory: Path
    url: str = ""
    credential: str = field(default="", repr=False)
    tls_roots: Path | None = None

    def open(self, *, anonymous: bool = False) -> "ManagementClient":
        """A client; NotConfigured when it is not known where to, or as whom."""
        from prefill_cloud.manage import ManagementClient

        url, credential = self._found(anonymous=anonymous)
        roots = self.tls_roots.read_bytes() if self.tls_roots is not None else None
        return ManagementClient(url, None if anonymous else credential, tls_roots=roots)

    def _found(self, *, anonymous: bool) -> tuple[str, str]:
        if self.url and not (self.credential or anonymous):
            raise NotConfigured(
                "--url needs a credential", f"set {CREDENTIAL_VARIABLE} to an API key of that cloud"
            )
        if self.url:
            return self.url, self.credential
        left = _left_by_up(self.directory)
        credential = self.credential or left.get("operator_credential", "")
        if not (credential or anonymous):
            raise NotConfigured(
                f"no credential is known here ({self.directory} holds none)",
                f"set {CREDENTIAL_VARIABLE} to an API key or a session token",
            )
        return left["management_url"], credential


def _left_by_up(directory: Path) -> dict[str, str]:
    from prefill_stack.up_folder import CLOUD_FILE, load_access

    document = load_access(directory)
    if not document.get("management_url"):
        raise NotConfigured(
            f"no running management API is known here ({directory / CLOUD_FILE} names none)",
            "start one with `prefill-cloud up` (not --small), "
            f"or give --url and {CREDENTIAL_VARIABLE}",
        )
    return document
