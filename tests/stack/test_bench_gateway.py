"""What the gateway's bench makes of refusals: too much work is a finding, anything else is not."""

import grpc
import pytest
from prefill_data.refusals import ERROR_METADATA
from prefill_stack.benches.gateway import why_too_much
from prefill_wire.pb import prefill_pb2


def refusal(code):
    """A call's refusal as a gateway tells it."""
    detail = prefill_pb2.ErrorDetail(code=code, message="256 are open").SerializeToString()
    trailing = grpc.aio.Metadata((ERROR_METADATA, detail))
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), trailing, "bare")


def test_a_rate_that_was_too_much_says_what_refused_it():
    wrapped = ExceptionGroup("calls", [refusal("CAPACITY_EXHAUSTED"), refusal("WORKER_LOST")])
    assert why_too_much(wrapped) == "CAPACITY_EXHAUSTED: 256 are open"


def test_another_refusal_ends_the_bench():
    """The twin: a revoked key is no sign of too much work."""
    with pytest.raises(grpc.aio.AioRpcError):
        why_too_much(refusal("KEY_REVOKED"))
