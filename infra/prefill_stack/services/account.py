"""Whom a service runs as, and where it may keep its files.

A plain user runs services as itself, inside the folder it names. Root drops to `postgres` or
`nobody`, whom a 0700 home or a private folder of root's keeps out: data and, where needed, a copy
of the binaries then lie under `/var/lib/prefill-cloud`.
"""

import os
import pwd
import re
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prefill_stack.errors import NotConfigured

ROOT_STATE = Path("/var/lib/prefill-cloud")
CANDIDATES = ("postgres", "nobody")
LABEL_BYTES = 8
LABEL = re.compile(rf"[0-9a-f]{{{2 * LABEL_BYTES}}}")


@dataclass(frozen=True)
class Account:
    """A user of this system that a service runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_self(self) -> bool:
        return self.uid == os.geteuid()


def service_account() -> Account:
    """This process's user; for root the first of `postgres`, `nobody` that exists."""
    uid = os.geteuid()
    if uid != 0:
        return Account(str(uid), uid, os.getegid())
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise NotConfigured(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(CANDIDATES)}",
        "add one of these users, or run as a plain user",
    )


def private_home(directory: Path, account: Account, name: str) -> Path:
    """The 0700 folder of a service that belongs to `directory`; the same one every time.

    What root keeps elsewhere goes by a name that lies in `directory`: who removes that folder, with
    the passwords in it, begins anew instead of meeting data that nobody can open.
    """
    if account.is_self:
        home = directory / name
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        return home
    label = directory / f"{name}.id"
    if not label.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        label.write_text(secrets.token_hex(LABEL_BYTES), encoding="ascii")
    home = _root_state() / f"{name}-{label.read_text(encoding='ascii')}"
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, account.uid, account.gid)
    home.chmod(0o700)
    return home


def remove_homes(directory: Path) -> None:
    """Remove what services of folders below `directory` keep elsewhere; none of them runs now."""
    for label in directory.rglob("*.id"):
        name = label.read_text(encoding="ascii", errors="replace")
        if label.stem.isidentifier() and LABEL.fullmatch(name):
            shutil.rmtree(ROOT_STATE / f"{label.stem}-{name}", ignore_errors=True)


def _root_state() -> Path:
    """Root's folder for services; refused when another user owns it."""
    ROOT_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    if ROOT_STATE.is_symlink() or ROOT_STATE.stat().st_uid != 0:
        raise NotConfigured(f"{ROOT_STATE} does not belong to root", "remove it, or correct it")
    return ROOT_STATE


def can_enter(path: Path, account: Account) -> bool:
    """Whether the account may pass every folder down to `path`."""
    resolved = path.resolve()
    return all(_may_pass(folder.stat(), account) for folder in (resolved, *resolved.parents))


def _may_pass(found: os.stat_result, account: Account) -> bool:
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def within_reach(root: Path, folders: tuple[Path, ...], account: Account, label: str) -> Path:
    """A folder that holds `folders` as `root` does and that the account may enter.

    `root` itself when it will do, else a copy; `label` names the copy and changes with content.
    """
    if all(can_enter(folder, account) for folder in folders):
        return root
    copy = _root_state() / label
    if not copy.exists():
        fresh = Path(tempfile.mkdtemp(prefix=f"{label}-", dir=_root_state()))
        for folder in folders:
            shutil.copytree(folder, fresh / folder.relative_to(root), symlinks=True)
        fresh.chmod(0o755)
        try:
            fresh.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(fresh)
    return copy
