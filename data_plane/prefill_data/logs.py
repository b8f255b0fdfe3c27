"""Structured logs on stderr, one JSON object a line; who logs names the request."""

import datetime as dt
import json
import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

# Made once: `json.dumps` with a default of its own makes an encoder a line.
_encode = json.JSONEncoder(default=repr).encode


def configure_logging(process: str) -> None:
    """Set up once per process. Nothing that a prompt consists of may be given to a logger."""

    def render(logger: WrappedLogger, level: str, line: EventDict) -> str:
        line["process"], line["level"] = process, level
        line["timestamp"] = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
        if "exc_info" in line:
            line = structlog.processors.format_exc_info(logger, level, line)
        return _encode(line)

    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
