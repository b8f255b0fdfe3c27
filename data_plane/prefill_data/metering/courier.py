"""The control plane's internal API as a gateway calls it: JSON over HTTP, in a thread."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from prefill_wire.loopback import is_loopback

from prefill_data.errors import SettingsError
from prefill_data.fleet_token import fleet_metadata
from prefill_data.metering.record import BilledAttempt
from prefill_data.metering.shipper import BatchRefused, Verdict
from prefill_data.settings import Tls

PATH = "/internal/receipts"
ANSWER_SECONDS = 15.0
MAX_ANSWER_BYTES = 1 << 20
REFUSALS = (400, 413, 422)  # the batch itself is wrong; whatever else is said may change


class _Answer(msgspec.Struct):
    lines: list[Verdict]


class HttpCourier:
    """One request a batch, authenticated by the fleet's token."""

    def __init__(self, url: str, fleet_token: bytes, tls: Tls | None) -> None:
        """`url` is http://host:port on loopback, or https://."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                f"PREFILL_CONTROL_URL={url!r} is no URL", "example: https://control"
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise SettingsError(
                f"PREFILL_CONTROL_URL={url!r} would send the fleet's token in the clear",
                "name it with https://, or a control plane on 127.0.0.1 with http://",
            )
        self._host, self._port, self._secure = parts.hostname, parts.port, parts.scheme == "https"
        self._headers = {**dict(fleet_metadata(fleet_token)), "Content-Type": "application/json"}
        authority = str(tls.authority) if tls is not None else None
        self._context = ssl.create_default_context(cafile=authority) if self._secure else None

    async def deliver(self, batch: Sequence[BilledAttempt]) -> list[Verdict]:
        """Raises BatchRefused, or OSError when it is worth trying again."""
        status, answer = await asyncio.to_thread(self._post, encode_batch(batch))
        if status in REFUSALS:
            raise BatchRefused(f"HTTP {status}: {answer[:500].decode(errors='replace')}")
        if status != 200:
            raise ConnectionError(f"the control plane answered HTTP {status}")
        return decode_verdicts(answer, len(batch))

    def _post(self, body: bytes) -> tuple[int, bytes]:
        connection = self._connect()
        try:
            connection.request("POST", PATH, body, self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER_BYTES)
        except http.client.HTTPException as error:
            raise ConnectionError(f"the control plane answered no HTTP: {error!r}") from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is not None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=ANSWER_SECONDS, context=self._context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)


def encode_batch(batch: Sequence[BilledAttempt]) -> bytes:
    """The body of a request."""
    lines = [
        {
            "receipt": base64.b64encode(billed.receipt).decode(),
            "certificate": base64.b64encode(billed.certificate).decode(),
            "amount_micros": billed.amount_micros,
            "route_reason": billed.route_reason,
        }
        for billed in batch
    ]
    return json.dumps({"lines": lines}).encode()


def decode_verdicts(answer: bytes, count: int) -> list[Verdict]:
    """One verdict a receipt; ConnectionError for an answer that is something else."""
    try:
        verdicts = msgspec.json.decode(answer, type=_Answer).lines
    except msgspec.DecodeError as error:
        raise ConnectionError(f"the control plane's answer cannot be read: {error}") from None
    if len(verdicts) != count:
        raise ConnectionError(f"{len(verdicts)} verdicts on {count} receipts")
    return verdicts
