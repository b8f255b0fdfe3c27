"""The exceptions: one for every code, carrying what a caller needs; the import stays light."""

import subprocess
import sys

import grpc
import prefill_cloud
import pytest
from prefill_cloud.errors import PrefillCloudError, error_for, refused_by_wire
from prefill_cloud.refusals import BARE_STATUS
from prefill_wire.errors import (
    IntegrityError,
    LimitExceeded,
    MalformedFrame,
    UnsupportedCodec,
    WireError,
)
from prefill_wire.status import STATUS_TABLE, Disposition, StatusCode

FAILURES = [code for code in StatusCode if code is not StatusCode.OK]


@pytest.mark.parametrize("code", FAILURES)
def test_every_code_has_its_exception(code):
    error = error_for(code, "what happened.", "req_1")
    assert type(error).__name__ == STATUS_TABLE[code].exception
    assert isinstance(error, PrefillCloudError)
    assert (error.code, error.request_id) == (code, "req_1")
    assert error.remedy in str(error)


def test_bad_keys_and_requests_are_errors_and_outages_fall_back():
    dispositions = {code: STATUS_TABLE[code].disposition for code in FAILURES}
    for code in ("KEY_NOT_FOUND", "KEY_REVOKED", "MALFORMED_REQUEST", "TOKEN_OUT_OF_RANGE"):
        assert dispositions[StatusCode(code)] is Disposition.ERROR
    for code in ("WORKER_LOST", "INTEGRITY_FAILURE", "RATE_LIMITED", "DEADLINE_EXCEEDED"):
        assert dispositions[StatusCode(code)] is Disposition.FALLBACK


def test_public_names():
    assert prefill_cloud.__all__ == sorted(prefill_cloud.__all__)
    assert set(prefill_cloud.__all__) == {
        "AsyncClient", "Client", "Decision", "GeneratedPiece", "Generation", "LocalEngine",
        "PrefillCloudError", "PrefilledState", "Route", "Situation", "UseLocalError", "decide",
    }  # fmt: skip
    assert all(hasattr(prefill_cloud, name) for name in prefill_cloud.__all__)


def test_a_bare_grpc_status_has_its_code():
    assert set(BARE_STATUS) == set(grpc.StatusCode)


def test_what_the_wire_refuses_of_the_clouds_bytes_is_never_the_callers_mistake():
    for error in (MalformedFrame("m"), LimitExceeded("l"), WireError("w"), IntegrityError("i")):
        assert refused_by_wire(error, "req_1").code is StatusCode.INTEGRITY_FAILURE
    refused = refused_by_wire(UnsupportedCodec("c"), "req_1")
    assert (refused.code, refused.request_id) == (StatusCode.UNSUPPORTED_CODEC, "req_1")


def test_the_import_brings_no_engine_and_no_server():
    program = "import sys, prefill_cloud; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "transformers", "litestar", "sqlalchemy", "redis", "stripe", "prefill_engine"}
    assert heavy.isdisjoint(loaded)
    assert "prefill_cloud.errors" in loaded


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("The key is gone.", "The key is gone. Make another."),
        ("the key is gone", "the key is gone. Make another."),
        ("the key is gone; make another.", "the key is gone; make another."),
    ],
)
def test_a_remedy_is_told_once(message, told):
    assert str(PrefillCloudError(StatusCode.KEY_REVOKED, message, remedy="Make another.")) == told
