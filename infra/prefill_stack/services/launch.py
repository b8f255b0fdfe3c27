"""`python -m prefill_stack.services.launch UID GID SIGNAL PARENT COMMAND...`: become a service.

Drops to the account, asks Linux to send SIGNAL when the parent dies, then becomes COMMAND. The
order matters: changing the user clears the parent-death signal, exec keeps it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def drop_to(uid: int, gid: int) -> None:
    """Give root up for good; does nothing when this already is the account."""
    if os.getuid() != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)


def end_with_parent(number: int, parent: int) -> None:
    """Linux sends `number` when the parent dies; a parent that is gone already ends us here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        sys.exit(1)


def main(arguments: list[str]) -> None:
    uid, gid, number, parent = (int(text) for text in arguments[:4])
    drop_to(uid, gid)
    end_with_parent(number, parent)
    # Ctrl-C reaches the whole terminal group; whoever supervises decides the order of stopping.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execv(arguments[4], arguments[4:])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
