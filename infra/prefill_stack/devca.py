"""A development authority: TLS certificates, the control key, worker certificates, API keys.

Stands in for the control plane on one machine. Private keys lie in a 0700 directory as 0600 files;
nothing here is meant for a network that others can reach.
"""

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TLS_DAYS = 30
API_KEY_BYTES = 32
AUTHORITY_FILE = "ca.pem"


@dataclass(frozen=True)
class ApiKey:
    """One tenant's key; `secret` is shown once and stored as SHA-256 only."""

    key_id: str
    tenant: str
    secret: str = field(repr=False)

    def entry(self) -> dict[str, str]:
        digest = hashlib.sha256(self.secret.encode()).hexdigest()
        status = "VALID"
        return {
            "key_id": self.key_id,
            "tenant": self.tenant,
            "sha256": digest,
            "status": status,
        }


@dataclass(frozen=True)
class TlsFiles:
    """Paths of one server's certificate and key, and of the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path


def private_directory(path: Path) -> Path:
    """Make (or tighten) a directory that only its owner may enter."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, content: bytes) -> Path:
    """Write a file that is 0600 from its first byte on: whole and durable, or as it was before."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # what a crash left
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)
    return path


def _sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_api_key(tenant: str) -> ApiKey:
    """A fresh random key of this tenant: `pck_` and 43 base64url characters."""
    text = base64.urlsafe_b64encode(secrets.token_bytes(API_KEY_BYTES)).rstrip(b"=").decode()
    return ApiKey("key_" + secrets.token_hex(8), tenant, "pck_" + text)


def write_key_file(path: Path, keys: list[ApiKey]) -> Path:
    """The gateway's key file: hashes and states, no secret."""
    document = {"keys": [key.entry() for key in keys]}
    return write_private(path, json.dumps(document, indent=2).encode())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _builder(subject: x509.Name, issuer: x509.Name, now: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=TLS_DAYS))
    )


class TlsAuthority:
    """A certificate authority of its own for one development cloud."""

    def __init__(self, directory: Path, now: dt.datetime) -> None:
        self._directory = private_directory(directory)
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name("Prefill Cloud development CA")
        certificate = (
            _builder(self._subject, self._subject, now)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        encoded = certificate.public_bytes(serialization.Encoding.PEM)
        self.certificate_path = write_private(self._directory / AUTHORITY_FILE, encoded)

    def issue(self, name: str, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> TlsFiles:
        """A server certificate for these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        certificate = (
            _builder(_name(name), self._subject, self._now)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(alternatives, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        encoded = certificate.public_bytes(serialization.Encoding.PEM)
        return TlsFiles(
            write_private(self._directory / f"{name}.pem", encoded),
            write_private(self._directory / f"{name}.key", _pem(key)),
            self.certificate_path,
        )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
