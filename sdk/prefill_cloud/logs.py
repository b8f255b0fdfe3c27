"""The SDK's log: structlog events into the standard logger `prefill_cloud`, silent by default.

An application that configures logging sees them; prompt ids, text and keys are never given to it.
"""

from __future__ import annotations

import logging

import structlog
from structlog.stdlib import BoundLogger

_STANDARD = logging.getLogger("prefill_cloud")
_STANDARD.addHandler(logging.NullHandler())


def logger(request_id: str = "") -> BoundLogger:
    """A logger; with a request id, every line carries it."""
    log: BoundLogger = structlog.wrap_logger(
        _STANDARD,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.LogfmtRenderer(key_order=["event", "request_id"]),
        ],
        wrapper_class=BoundLogger,
    )
    return log.bind(request_id=request_id) if request_id else log
