"""What the gateway's bench makes of refusals: too much work is a finding, anything else is not."""

import grpc
import pytest
from prefill_data.refusals import ERROR_METADATA
from prefill_stack.benches.gateway import FellBehind, check_pace, why_too_much
from prefill_stack.load.open_loop import Measured, Offered
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


def test_a_rate_at_which_calls_only_queue_up_is_too_much():
    offered = Offered(100, 2.0)
    last = offered.moments()[-1]
    check_pace("direct", offered, Measured([0.01] * 200, last + 0.4))
    with pytest.raises(FellBehind) as found:
        check_pace("direct", offered, Measured([0.01] * 200, last + 1.26))
    told = "direct: the last of 200 calls ended 1.3 s after it was due"
    assert why_too_much(ExceptionGroup("sides", [found.value])) == told
