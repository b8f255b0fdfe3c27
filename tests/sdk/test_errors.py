"""The exceptions: one for every code, carrying what a caller needs; the import stays light."""

import subprocess
import sys

import prefill_cloud
import pytest
from prefill_cloud.errors import PrefillCloudError, error_for
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
    assert all(hasattr(prefill_cloud, name) for name in prefill_cloud.__all__)


def test_the_import_brings_no_engine_and_no_server():
    program = "import sys, prefill_cloud; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "transformers", "litestar", "sqlalchemy", "redis", "stripe", "prefill_engine"}
    assert heavy.isdisjoint(loaded)
    assert "prefill_cloud.errors" in loaded
