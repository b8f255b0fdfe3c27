"""Log lines: one JSON object each, whatever is logged."""

import json
from datetime import UTC, datetime
from pathlib import Path

import structlog
from prefill_data.logs import configure_logging
from prefill_wire.status import StatusCode


def told(capsys):
    """The lines on stderr, parsed."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_says_when_which_process_and_how_bad_it_is(capsys):
    configure_logging("gateway")
    log, before = structlog.get_logger(), datetime.now(UTC)
    log.info("open", tokens=8, request_id="req_\ud800é")
    log.warning("key file", path=Path("keys.json"), code=StatusCode.RATE_LIMITED)
    one, two = told(capsys)
    when = datetime.fromisoformat(one.pop("timestamp"))
    assert before <= when <= datetime.now(UTC)
    assert one == {"event": "open", "level": "info", "process": "gateway", "tokens": 8,
                   "request_id": "req_\ud800é"}  # fmt: skip
    assert (two["level"], two["code"], "keys.json" in two["path"]) == (
        "warning", "RATE_LIMITED", True)  # fmt: skip


def test_an_error_and_where_it_came_from_is_one_line_too(capsys):
    configure_logging("worker")
    try:
        raise OSError("two\nlines")
    except OSError as error:
        structlog.get_logger().error("failed", exc_info=error)
    (line,) = told(capsys)
    assert "OSError: two\nlines" in line["exception"]
    assert __name__.rpartition(".")[2] in line["exception"]


def test_what_is_beneath_info_is_not_written(capsys):
    configure_logging("worker")
    structlog.get_logger().debug("nothing")
    assert told(capsys) == []
