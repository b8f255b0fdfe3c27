"""What the wire refuses, and with which status code.

WireError
  MalformedFrame          bytes that are no message of this protocol
  LimitExceeded           a declared size or count beyond its limit, seen before allocation
  UnsupportedVersion      a newer protocol
  UnsupportedCodec        a codec this side does not know
  UnsupportedTensorKind   a kind of tensor this side does not know
  IntegrityError          a digest, seal or signature that does not hold
  IdentityError           whole and genuine, but of another request, model, prompt or worker
  CapabilityError         a data-channel capability or proof that does not hold
  ChannelError            a message out of turn
"""

from __future__ import annotations

from prefill_wire.status import STATUS_TABLE, StatusCode


class WireError(Exception):
    """The root: `code` for machines, `message` for people, `remedy` for what to do."""

    default_code = StatusCode.MALFORMED_REQUEST

    def __init__(self, message: str, code: StatusCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.remedy = STATUS_TABLE[self.code].remedy


class MalformedFrame(WireError):
    """Bytes that are no message of this protocol."""

    default_code = StatusCode.INTEGRITY_FAILURE


class LimitExceeded(WireError):
    """A declared size or count beyond its limit."""

    default_code = StatusCode.MALFORMED_REQUEST

    @classmethod
    def of(cls, thing: str, value: int, limit: int) -> LimitExceeded:
        """The error for `thing` whose `value` is beyond `limit`."""
        return cls(f"{thing} is {value}, the limit is {limit}")


class UnsupportedVersion(WireError):
    """A protocol version this side does not speak."""

    default_code = StatusCode.UNSUPPORTED_WIRE_VERSION


class UnsupportedCodec(WireError):
    """A codec this side does not know."""

    default_code = StatusCode.UNSUPPORTED_CODEC


class UnsupportedTensorKind(WireError):
    """A kind of tensor this side does not know."""

    default_code = StatusCode.UNSUPPORTED_TENSOR_KIND


class IntegrityError(WireError):
    """A digest, seal or signature that does not hold."""

    default_code = StatusCode.INTEGRITY_FAILURE


class IdentityError(WireError):
    """Whole and genuine, but bound to something else than was asked for."""

    default_code = StatusCode.IDENTITY_FAILURE


class CapabilityError(WireError):
    """A capability or proof of possession that does not hold."""

    default_code = StatusCode.CAPABILITY_INVALID


class ChannelError(WireError):
    """A message that its connection's state does not allow."""

    default_code = StatusCode.INTEGRITY_FAILURE
