"""For every test process: a Ctrl-C that reaches the processes which tests start."""

import signal


def pytest_configure():
    """A shell's background job ignores SIGINT, and so would everything that tests start from it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
