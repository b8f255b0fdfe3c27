"""One total table: every status code has a gRPC status, an SDK exception and a remedy."""

import importlib

import grpc
from prefill_wire.status import STATUS_TABLE, StatusCode


def faults(table, codes, exceptions):
    """What is missing from a table that should cover these codes."""
    found = [f"{code}: no entry" for code in codes if code not in table]
    for code, entry in table.items():
        if not hasattr(grpc.StatusCode, entry.grpc_status):
            found.append(f"{code}: no gRPC status {entry.grpc_status}")
        exception = getattr(exceptions, entry.exception, None)
        if not (isinstance(exception, type) and issubclass(exception, Exception)):
            found.append(f"{code}: no SDK exception {entry.exception}")
        if len(entry.remedy) < 10:
            found.append(f"{code}: no remedy")
    return found


def failures():
    return [code for code in StatusCode if code is not StatusCode.OK]


def test_the_table_is_total():
    exceptions = importlib.import_module("prefill_cloud.errors")
    table = {code: entry for code, entry in STATUS_TABLE.items() if code is not StatusCode.OK}
    assert faults(table, failures(), exceptions) == []
    assert StatusCode.OK in STATUS_TABLE


def test_the_table_detector_fires():
    table = dict(STATUS_TABLE)
    del table[StatusCode.INTERNAL]
    found = faults(table, failures(), exceptions=object())
    assert f"{StatusCode.INTERNAL}: no entry" in found
    assert any("no SDK exception" in line for line in found)
