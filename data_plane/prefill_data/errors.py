"""The one error root of the data plane: every refusal carries its status code and a remedy."""

from prefill_wire.status import StatusCode


class DataPlaneError(Exception):
    """A typed refusal; `code` decides the gRPC status and the SDK exception by the status table."""

    def __init__(self, code: StatusCode, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
