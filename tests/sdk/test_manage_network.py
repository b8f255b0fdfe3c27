"""Management over real sockets: whose certificate is believed, and that no proxy is asked."""

import asyncio
import json

import pytest
from prefill_cloud.manage import AsyncManagementClient, Patience, errors
from prefill_cloud.manage.address import Address
from test_manage import CREDENTIAL, TENANT
from test_tls import Authority


class Api:
    """Answers every request with one tenant; `heads` has what was asked."""

    def __init__(self, tls=None):
        self._tls, self.heads, self.connections = tls, [], 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._answer, "localhost", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader, writer):
        self.connections += 1
        body = json.dumps(TENANT).encode()
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # a client that does not believe the certificate hangs up
        finally:
            writer.close()


def client(url, **options):
    patience = Patience(deadline_seconds=30.0, tries=3)
    return AsyncManagementClient(url, CREDENTIAL, patience=patience, **options)


@pytest.fixture
def authorities(tmp_path):
    return Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")


async def test_only_given_roots_are_believed_and_a_stranger_is_left_at_once(authorities):
    ours, theirs = authorities
    async with Api(ours.server) as api:
        url = f"https://localhost:{api.port}"
        async with client(url, tls_roots=ours.roots) as trusting:
            assert (await trusting.tenants.read("ten_a")).id == "ten_a"
        for roots in (theirs.roots, None):
            api.connections = 0
            async with client(url, tls_roots=roots) as wary:
                with pytest.raises(errors.UnreachableError) as refused:
                    await wary.tenants.read("ten_a")
            assert "tls_roots" in refused.value.remedy
            assert api.connections <= 2  # one for each address of localhost: no second try
    assert len(api.heads) == 1
    assert CREDENTIAL in api.heads[0]


async def test_no_proxy_sees_what_stays_on_this_machine(monkeypatch):
    async with Api() as proxy, Api() as api:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with client(f"http://localhost:{api.port}") as direct:
            await direct.tenants.read("ten_a")
    assert (len(api.heads), len(proxy.heads)) == (1, 0)
    assert "GET /v1/tenants/ten_a HTTP/1.1" in api.heads[0]


async def test_the_proxy_detector_fires(monkeypatch):
    monkeypatch.setattr(Address, "parse", lambda url: Address(url, loopback=False))
    async with Api() as proxy, Api() as api:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        async with client(f"http://localhost:{api.port}") as through:
            await through.tenants.read("ten_a")
    assert (len(api.heads), len(proxy.heads)) == (0, 1)
