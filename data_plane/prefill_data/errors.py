"""The one error root of the data plane: every refusal carries its status code and a remedy."""

from prefill_wire.status import STATUS_TABLE, StatusCode


class DataPlaneError(Exception):
    """A typed refusal; `code` decides the gRPC status and the SDK exception by the status table."""

    def __init__(
        self, code: StatusCode, message: str, remedy: str = "", retry_after_ms: int = 0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy or STATUS_TABLE[code].remedy
        self.retry_after_ms = retry_after_ms


class SettingsError(DataPlaneError):
    """A `PREFILL_*` variable that is missing or cannot be right; the message names it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(StatusCode.INTERNAL, message, remedy)
