"""An event loop whose time passes only when everybody waits: hours of a protocol in a second."""

import asyncio
import selectors


class VirtualSelector(selectors.DefaultSelector):
    """Waits for nothing: where a real one would sleep, the loop's time goes on."""

    def __init__(self):
        super().__init__()
        self.passed = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits for something that will never come")
        if not ready:
            self.passed += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves by what is slept."""

    def __init__(self):
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self):
        return self._virtual.passed


def run_virtually(coroutine):
    """The coroutine's result, in no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
