"""The platform's secrets: made on the first start, kept as 0600 files, handed over by path."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from prefill_control.access.secrets import Pepper, api_key_pepper
from prefill_wire.signing import SigningKey

from prefill_stack.devca import write_private
from prefill_stack.services.process import kept_secret

SEED_BYTES = 32
CONTROL_PEPPER, API_KEY_PEPPER = "control.pepper", "api-keys.pepper"


def kept_bytes(path: Path, size: int = SEED_BYTES) -> bytes:
    """Random bytes of this file; made on first use."""
    if not path.exists():
        write_private(path, secrets.token_bytes(size))
    return path.read_bytes()


@dataclass(frozen=True)
class PlatformSecrets:
    """Paths of the secrets that processes read themselves."""

    folder: Path

    @property
    def pepper(self) -> Path:
        """What secrets are hashed with; of the control plane alone."""
        self._part_pepper()
        kept_bytes(self.folder / CONTROL_PEPPER)
        return self.folder / CONTROL_PEPPER

    @property
    def api_key_pepper(self) -> Path:
        """What customers' API keys are hashed with; gateways get nothing else."""
        path, control = self.folder / API_KEY_PEPPER, self.pepper.read_bytes()
        if not path.exists():
            write_private(path, api_key_pepper(control))
        return path

    def _part_pepper(self) -> None:
        """Folders of a time with one pepper, which gateways had: keys in circulation stay with it,
        everything else gets a new one (members sign in again)."""
        old = self.folder / "pepper"
        if old.exists() and not (self.folder / API_KEY_PEPPER).exists():
            write_private(self.folder / API_KEY_PEPPER, old.read_bytes())
        old.unlink(missing_ok=True)

    def proofs(self) -> Pepper:
        """As the control plane hashes."""
        return Pepper(self.pepper.read_bytes(), self.api_key_pepper.read_bytes())

    @property
    def control_seed(self) -> Path:
        """The control plane's signing key."""
        kept_bytes(self.folder / "control.seed")
        return self.folder / "control.seed"

    @property
    def control_key(self) -> SigningKey:
        """The key of that seed: it certifies workers and signs snapshots."""
        return SigningKey.from_seed(self.control_seed.read_bytes())

    @property
    def fleet_token(self) -> Path:
        """What processes of the fleet show each other."""
        kept_secret(self.folder / "fleet.token")
        return self.folder / "fleet.token"

    def password(self, role: str) -> str:
        """A database role's password."""
        return kept_secret(self.folder / f"database.{role}.password")

    def file(self, name: str, content: str) -> Path:
        """A secret that is derived at each start, such as a URL with a password in it."""
        return write_private(self.folder / name, content.encode())
