"""`python -m prefill_stack.child MODULE`: runs a module that cannot outlive its parent.

Two watches, because neither is enough alone. The kernel's parent-death signal (Linux) also kills a
child that is stopped or stuck in C. The stdin pipe, whose other end only the parent holds, works on
every system and covers a parent that died before the signal was asked for.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
ORPHAN_GRACE_SECONDS = 5.0


def die_with_parent() -> None:
    """Ask Linux to SIGKILL this process when its parent dies (elsewhere: nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch_parent(descriptor: int) -> None:
    """Block until the parent's end of the pipe closes, then stop this process, gently first."""
    while os.read(descriptor, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(ORPHAN_GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    module = sys.argv[1]
    die_with_parent()
    descriptor = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=watch_parent, args=(descriptor,), daemon=True).start()
    # Ctrl-C reaches the whole terminal group; the supervisor alone decides the order of stopping.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
