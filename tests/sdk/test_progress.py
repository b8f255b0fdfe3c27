"""The bar: on a terminal's stderr, for long prefills, unless it is switched off."""

import io

import pytest
from prefill_cloud.download import PrefillProgress
from prefill_cloud.progress import LONG_TOKENS, prefill_bar


class Terminal(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, tty):
        super().__init__()
        self._tty = tty

    def isatty(self):
        return self._tty


@pytest.mark.parametrize(
    ("tty", "enabled", "tokens", "shown"),
    [
        (True, True, LONG_TOKENS, True),
        (False, True, LONG_TOKENS, False),
        (True, False, LONG_TOKENS, False),
        (True, True, LONG_TOKENS - 1, False),
    ],
)
def test_when_a_bar_is_shown(tty, enabled, tokens, shown):
    stream = Terminal(tty)
    with prefill_bar(tokens, enabled=enabled, stream=stream) as show:
        if show is not None:
            show(PrefillProgress(2048, tokens, 3, 5 << 20))
    assert (show is not None) is shown
    assert bool(stream.getvalue()) is shown
    if shown:
        assert "2,048/4,095 tokens" in stream.getvalue()
        assert "5.0 MiB" in stream.getvalue()
