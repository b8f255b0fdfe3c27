"""What a platform on one machine consists of, and where its files lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefill_stack.devca import private_directory


@dataclass(frozen=True)
class Place:
    """One datacenter of the local platform: a gateway and its workers."""

    name: str
    jurisdiction: str
    place: str
    rtt_ms: int


PLACES = (
    Place("eu-central", "EU", "Frankfurt", 8),
    Place("us-east", "US", "Ashburn", 92),
)


@dataclass(frozen=True)
class PlatformPlan:
    """Checkpoints by served name; empty URLs mean services of our own."""

    directory: Path
    checkpoints: Mapping[str, Path]
    places: tuple[Place, ...] = PLACES
    workers: int = 1
    profile: str = "fp32"
    database_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    api_listen: str = "127.0.0.1:0"
    tenants: tuple[str, ...] = ("demo",)
    worker_settings: Mapping[str, str] = field(default_factory=dict)
    gateway_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        """One folder for the logs of every process."""
        return private_directory(self.directory / "logs")

    @property
    def secrets(self) -> Path:
        """One private folder for everything secret."""
        return private_directory(self.directory / "secrets")
