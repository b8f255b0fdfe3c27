"""An acceptance held to what was asked, before the prompt goes anywhere."""

from __future__ import annotations

from prefill_wire.certificate import verify_certificate
from prefill_wire.errors import IdentityError
from prefill_wire.limits import SUPPORTED_WIRE_VERSIONS
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_cloud.endpoint import Endpoint
from prefill_cloud.errors import PrefillCloudError, error_for
from prefill_cloud.request import PrefillRequest


def check_accept(
    accept: prefill_pb2.Accept, request: PrefillRequest, control_public_key: bytes, now_ms: int
) -> None:
    """Hold an acceptance to what was asked, before the prompt goes anywhere."""
    certificate = verify_certificate(control_public_key, accept.worker_certificate, now_ms)
    if certificate.worker_id != accept.worker_id or certificate.datacenter != accept.datacenter:
        raise IdentityError("the worker's certificate is another worker's")
    if request.residency and accept.datacenter not in request.residency:
        message = f"datacenter {accept.datacenter} breaks the residency rule {request.residency}."
        raise error_for(StatusCode.NO_DATACENTER, message, accept.request_id)
    if accept.wire_version not in SUPPORTED_WIRE_VERSIONS:
        message = f"the gateway chose wire version {accept.wire_version}."
        raise error_for(StatusCode.UNSUPPORTED_WIRE_VERSION, message, accept.request_id)
    if 0 < request.max_price_micros < accept.price_bound_micros:
        message = f"the price of up to {accept.price_bound_micros} micros is above the cap of "
        message += f"{request.max_price_micros}."
        raise error_for(StatusCode.PRICE_CAP_EXCEEDED, message, accept.request_id)
    data_endpoint(accept)


def data_endpoint(accept: prefill_pb2.Accept) -> Endpoint:
    """Where the chunks are; in plain text on this machine only."""
    try:
        endpoint = Endpoint.parse(accept.data_endpoint)
    except PrefillCloudError:
        message = "the acceptance names no data endpoint."
        raise error_for(StatusCode.INTERNAL, message, accept.request_id) from None
    if not accept.data_tls and not endpoint.loopback:
        message = f"the data channel at {endpoint.text} is in plain text."
        raise error_for(StatusCode.INTERNAL, message, accept.request_id)
    return endpoint
