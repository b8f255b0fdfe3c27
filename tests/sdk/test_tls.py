"""TLS: gateway and data channel under given roots; a stranger's certificate ends both."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loopback_cloud import IDENTITY, SCHEMA, LoopbackCloud, random_state
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
