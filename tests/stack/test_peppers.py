"""A gateway holds what checks customers' API keys, and nothing that is the control plane's."""

import hashlib
import hmac
import os

import pytest
from prefill_control.access.secrets import (
    KEY_PREFIX,
    OPERATOR_PREFIX,
    SESSION_PREFIX,
    Pepper,
    api_key_pepper,
    new_text,
)
from prefill_stack.devca import private_directory
from prefill_stack.platform.secrets import PlatformSecrets


@pytest.fixture
def secrets(tmp_path):
    return PlatformSecrets(private_directory(tmp_path / "secrets"))


def gateways_proof(secrets, text):
    """What a gateway's file makes of a text."""
    key = secrets.api_key_pepper.read_bytes()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("prefix", [OPERATOR_PREFIX, SESSION_PREFIX])
def test_a_gateways_file_proves_no_operator_and_no_session(secrets, prefix):
    text = new_text(prefix, os.urandom)
    assert gateways_proof(secrets, text) != secrets.proofs().proof(text)
    assert secrets.pepper.read_bytes() != secrets.api_key_pepper.read_bytes()


def test_it_proves_customers_keys(secrets):
    text = new_text(KEY_PREFIX, os.urandom)
    assert gateways_proof(secrets, text) == secrets.proofs().proof(text)


def test_one_pepper_for_all_would_prove_both():
    pepper, text = Pepper(b"p" * 32, b"p" * 32), new_text(OPERATOR_PREFIX, os.urandom)
    assert hmac.new(b"p" * 32, text.encode(), hashlib.sha256).hexdigest() == pepper.proof(text)


def test_the_files_stay_as_they_are(secrets):
    first = secrets.pepper.read_bytes(), secrets.api_key_pepper.read_bytes()
    assert (secrets.pepper.read_bytes(), secrets.api_key_pepper.read_bytes()) == first
    assert first[1] == api_key_pepper(first[0]) == Pepper(first[0])._api_keys


@pytest.mark.parametrize("crashed", [False, True])
def test_keys_of_a_folder_with_one_pepper_stay_valid(secrets, crashed):
    old = os.urandom(32)
    (secrets.folder / "pepper").write_bytes(old)
    if crashed:  # right after the first step
        (secrets.folder / "api-keys.pepper").write_bytes(old)
    text = new_text(KEY_PREFIX, os.urandom)
    before = hmac.new(old, text.encode(), hashlib.sha256).hexdigest()
    assert gateways_proof(secrets, text) == before == secrets.proofs().proof(text)
    assert secrets.pepper.read_bytes() != old
    assert not (secrets.folder / "pepper").exists()
    session = new_text(SESSION_PREFIX, os.urandom)
    assert secrets.proofs().proof(session) != gateways_proof(secrets, session)
