"""TLS: gateway and data channel under given roots; a stranger's certificate ends both."""

import asyncio
import datetime
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loopback_cloud import API_KEY, CONTROL, IDENTITY, SCHEMA, LoopbackCloud, random_state
from prefill_cloud import AsyncClient, PrefillCloudError
from prefill_cloud.endpoint import Endpoint
from prefill_cloud.errors import UnavailableError
from prefill_wire.status import StatusCode

TOKENS = list(range(100, 112))


class Authority:
    """A root certificate for `localhost`, and its key, in PEM."""

    def __init__(self, folder):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.roots = certificate.public_bytes(serialization.Encoding.PEM)
        self.key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        folder.mkdir()
        (folder / "cert.pem").write_bytes(self.roots)
        (folder / "key.pem").write_bytes(self.key)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(folder / "cert.pem", folder / "key.pem")


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


@pytest.fixture
async def tls_cloud(authority):
    async with LoopbackCloud(tls=authority) as running:
        yield running


async def test_a_state_over_tls(tls_cloud, authority, connect):
    async with connect(tls_cloud, tls_roots=authority.roots) as client:
        state = await client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0)
    for key, array in random_state(TOKENS).items():
        assert state.tensors[key].tobytes() == array.tobytes()


async def test_a_strangers_gateway_is_not_talked_to(tls_cloud, tmp_path, connect):
    stranger = Authority(tmp_path / "stranger")
    async with connect(tls_cloud, tls_roots=stranger.roots) as client:
        with pytest.raises(UnavailableError):
            await client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0)
    assert not tls_cloud.calls


async def test_a_strangers_data_channel_is_not_talked_to(tls_cloud, authority, tmp_path, connect):
    stranger = Authority(tmp_path / "stranger")
    async with LoopbackCloud(tls=stranger) as other:
        tls_cloud.faults.accept = {"data_endpoint": other.data_endpoint}
        async with connect(tls_cloud, tls_roots=authority.roots) as client:
            with pytest.raises(UnavailableError, match="is not trusted") as caught:
                await client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0)
    assert caught.value.code is StatusCode.NETWORK_UNAVAILABLE
    assert other.sent.total() == 0


async def test_plain_text_is_refused_by_a_tls_gateway(tls_cloud, connect):
    async with connect(tls_cloud) as client:
        with pytest.raises(UnavailableError):
            await client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0)
    assert not tls_cloud.calls


async def first_bytes(host, quick):
    """What a client says first to a listener that it knows by this name."""
    heard, said = asyncio.Event(), []

    async def listen(reader, writer):
        said.append(await reader.read(4096))
        heard.set()
        writer.close()

    server = await asyncio.start_server(listen, "0.0.0.0", 0)  # noqa: S104 (by any name)
    port = server.sockets[0].getsockname()[1]
    options = {"control_public_key": CONTROL.public_bytes, "tuning": quick}
    async with AsyncClient(f"{host}:{port}", API_KEY, **options) as client:
        with pytest.raises(PrefillCloudError):
            await client.models()
    await asyncio.wait_for(heard.wait(), 10)
    server.close()
    return said[0]


async def test_off_this_machine_nothing_is_said_in_plain_text(quick):
    host = socket.gethostname()
    try:
        socket.getaddrinfo(host, 1, socket.AF_INET)
    except OSError:
        pytest.skip(f"this machine's name, {host}, has no address")
    if Endpoint.parse(f"{host}:1").loopback:
        pytest.skip(f"this machine's name is {host}")
    assert (await first_bytes(host, quick))[:2] == b"\x16\x03"  # a TLS handshake
    assert (await first_bytes("localhost", quick))[:3] == b"PRI"  # the twin: HTTP/2 as it is


def test_a_remote_gateway_does_not_redirect_to_this_machine(quick):
    options = {"control_public_key": CONTROL.public_bytes, "tuning": quick}
    exchange = AsyncClient("gateway.example:443", API_KEY, **options)._exchange
    assert exchange._redirected("other.example:443") == Endpoint("other.example", 443)
    with pytest.raises(PrefillCloudError, match=r"redirected to 127\.0\.0\.1:50"):
        exchange._redirected("127.0.0.1:50")
