"""The variables by which a gateway or a worker reaches the control plane; all may be absent."""

import pytest
from prefill_data.errors import SettingsError
from prefill_data.settings import ControlLink, GatewaySettings, WorkerSettings


@pytest.fixture
def files(tmp_path):
    """Paths of small files by name, as a supervisor would write them."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    (tmp_path / "spool").mkdir()
    return write


@pytest.fixture
def gateway(files, tmp_path):
    return {
        "PREFILL_GATEWAY_ID": "g1", "PREFILL_DATACENTER": "eu", "PREFILL_LISTEN": "127.0.0.1:0",
        "PREFILL_WORKERS": "127.0.0.1:1", "PREFILL_KEY_FILE": files("keys", b"{}"),
        "PREFILL_FLEET_TOKEN_FILE": files("token", b"t" * 32),
        "PREFILL_SPOOL_DIR": str(tmp_path / "spool"), "PREFILL_CONTROL_PUBLIC_KEY": "ab" * 32,
    }  # fmt: skip


def test_without_any_of_them_a_gateway_stands_alone(gateway):
    found = GatewaySettings.read(gateway)
    assert found.link == ControlLink()
    assert found.key_file is not None


def test_a_gateway_with_a_redis_needs_no_key_file(gateway, files):
    pepper = b"\x00 raw bytes, not stripped \n"
    del gateway["PREFILL_KEY_FILE"]
    found = GatewaySettings.read({
        **gateway,
        "PREFILL_LISTEN": "127.0.0.1:7070",
        "PREFILL_REDIS_URL_FILE": files("url", b"redis://gateway:secret@127.0.0.1:1/0\n"),
        "PREFILL_API_KEY_PEPPER_FILE": files("pepper", pepper),
        "PREFILL_GATEWAYS": "3",
        "PREFILL_CONTROL_URL": "http://127.0.0.1:7080",
        "PREFILL_GATEWAY_KEY_FILE": files("seed", b"s" * 32),
        "PREFILL_GATEWAY_CERTIFICATE_FILE": files("certificate", b"c"),
    })  # fmt: skip
    assert (found.key_file, found.advertised) == (None, "127.0.0.1:7070")
    assert found.link == ControlLink(
        redis_url="redis://gateway:secret@127.0.0.1:1/0", api_key_pepper=pepper, gateways=3,
        control_url="http://127.0.0.1:7080", seed=b"s" * 32, certificate=b"c",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREFILL_REDIS_URL_FILE", "/nowhere/url"),
        ("PREFILL_API_KEY_PEPPER_FILE", "/nowhere/pepper"),
        ("PREFILL_GATEWAYS", "0"),
        ("PREFILL_GATEWAYS", "many"),
        ("PREFILL_GATEWAY_KEY_FILE", "/nowhere/seed"),
        ("PREFILL_PEERS", "us=127.0.0.1:7@far"),
        ("PREFILL_PEERS", "us=127.0.0.1:7@nan"),
        ("PREFILL_PEERS", "us=127.0.0.1:7@-1"),
        ("PREFILL_PEERS", "us=@5"),
    ],
)
def test_what_is_wrong_is_named(gateway, name, value):
    with pytest.raises(SettingsError, match=name):
        GatewaySettings.read({**gateway, name: value})


@pytest.fixture
def telling(gateway, files):
    """A gateway that tells others about itself."""
    return {
        **gateway,
        "PREFILL_REDIS_URL_FILE": files("url", b"redis://127.0.0.1:1/0"),
        "PREFILL_GATEWAY_KEY_FILE": files("seed", b"s" * 32),
        "PREFILL_TLS_CERTIFICATE_FILE": files("pem", b""),
        "PREFILL_TLS_KEY_FILE": files("key", b""),
        "PREFILL_TLS_AUTHORITY_FILE": files("ca", b""),
    }


@pytest.mark.parametrize("listen", ["0.0.0.0:7070", "[::]:7070", "10.0.0.1:0"])
def test_a_gateway_that_listens_everywhere_has_to_say_where_it_is(telling, listen):
    everywhere = {**telling, "PREFILL_LISTEN": listen}
    with pytest.raises(SettingsError, match="no place") as refused:
        GatewaySettings.read(everywhere)
    assert "PREFILL_ADVERTISED_ENDPOINT" in refused.value.remedy
    named = {**everywhere, "PREFILL_ADVERTISED_ENDPOINT": "gateway.example:443"}
    assert GatewaySettings.read(named).advertised == "gateway.example:443"


@pytest.mark.parametrize("advertised", ["0.0.0.0:7070", "gateway.example:0", "gateway.example"])
def test_what_is_advertised_can_be_reached(telling, advertised):
    with pytest.raises(SettingsError, match="PREFILL_ADVERTISED_ENDPOINT"):
        GatewaySettings.read({**telling, "PREFILL_ADVERTISED_ENDPOINT": advertised})


def test_a_gateway_that_tells_nobody_may_listen_on_any_port(gateway):
    assert GatewaySettings.read(gateway).advertised == ""


def test_a_gateway_with_neither_redis_nor_key_file_is_told_so(gateway):
    del gateway["PREFILL_KEY_FILE"]
    with pytest.raises(SettingsError, match="PREFILL_KEY_FILE"):
        GatewaySettings.read(gateway)


def test_a_worker_takes_a_redis_for_its_heartbeats(files, tmp_path):
    values = {
        "PREFILL_WORKER_ID": "w1", "PREFILL_DATACENTER": "eu", "PREFILL_LISTEN": "127.0.0.1:0",
        "PREFILL_DATA_LISTEN": "127.0.0.1:0", "PREFILL_CHECKPOINTS": "m=/m",
        "PREFILL_WORKER_KEY_FILE": files("seed", b"s" * 32),
        "PREFILL_WORKER_CERTIFICATE_FILE": files("certificate", b"c"),
        "PREFILL_FLEET_TOKEN_FILE": files("token", b"t" * 32),
        "PREFILL_SPILL_DIR": str(tmp_path / "spool"),
    }  # fmt: skip
    assert WorkerSettings.read(values).redis_url == ""
    told = {**values, "PREFILL_REDIS_URL": "redis://worker@127.0.0.1:1/0"}
    assert WorkerSettings.read(told).redis_url == "redis://worker@127.0.0.1:1/0"
