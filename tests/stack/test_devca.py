"""The development authority: files that only their owner reads, certificates that TLS accepts."""

import datetime as dt
import hashlib
import json
import re
import resource
import signal
import socket
import ssl
import threading

import pytest
from prefill_stack.devca import (
    TlsAuthority,
    new_api_key,
    private_directory,
    write_key_file,
    write_private,
)


@pytest.fixture
def authority(tmp_path):
    return TlsAuthority(tmp_path / "ca", dt.datetime.now(dt.UTC))


def mode(path):
    return path.stat().st_mode & 0o777


def test_private_files_stay_private(tmp_path):
    loose = tmp_path / "keys"
    loose.mkdir(mode=0o755)
    folder = private_directory(loose)
    path = write_private(folder / "seed", b"secret")
    path.chmod(0o644)
    assert (mode(folder), mode(write_private(path, b"other"))) == (0o700, 0o600)
    assert path.read_bytes() == b"other"


def test_a_private_file_is_whole_or_as_it_was(tmp_path):
    path = write_private(tmp_path / "seed", b"secret")
    with pytest.raises(TypeError):
        write_private(path, "no bytes")
    assert path.read_bytes() == b"secret"
    write_private(path, b"other")  # over what the failure left
    assert ([p.name for p in tmp_path.iterdir()], path.read_bytes()) == (["seed"], b"other")


def test_a_full_disk_leaves_no_half_of_a_private_file(tmp_path):
    path, before = tmp_path / "seed", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_private(path, b"secret")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_private(path, bytes(4096))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert ([p.name for p in tmp_path.iterdir()], path.read_bytes()) == (["seed"], b"secret")


def test_api_keys_have_the_format_and_leave_only_a_digest(tmp_path):
    key = new_api_key("amber")
    assert re.fullmatch(r"pck_[A-Za-z0-9_-]{43}", key.secret)
    text = write_key_file(tmp_path / "keys.json", [key]).read_text(encoding="utf-8")
    (entry,) = json.loads(text)["keys"]
    assert entry["sha256"] == hashlib.sha256(key.secret.encode()).hexdigest()
    assert entry["tenant"] == "amber"
    assert key.secret not in text
    assert new_api_key("amber").secret != key.secret


def handshake(server_context, client_context, name):
    left, right = socket.socketpair()
    failures = []

    def serve():
        try:
            with server_context.wrap_socket(left, server_side=True) as tls:
                tls.sendall(b"hello")
        except (ssl.SSLError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_context.wrap_socket(right, server_hostname=name) as tls:
            return tls.recv(5)
    finally:
        right.close()
        thread.join()
        left.close()


def server_of(files):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def test_a_client_that_knows_the_authority_connects(authority):
    files = authority.issue("gateway")
    client = ssl.create_default_context(cafile=str(files.authority))
    assert handshake(server_of(files), client, "localhost") == b"hello"
    assert mode(files.key) == 0o600


def test_a_client_of_another_authority_refuses(authority, tmp_path):
    other = TlsAuthority(tmp_path / "other", dt.datetime.now(dt.UTC))
    client = ssl.create_default_context(cafile=str(other.certificate_path))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_of(authority.issue("gateway")), client, "localhost")


def test_another_host_name_is_refused(authority):
    client = ssl.create_default_context(cafile=str(authority.certificate_path))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_of(authority.issue("gateway")), client, "elsewhere.example")
