"""What `up` is asked is judged before anything starts."""

import pytest
from prefill_stack import shipped
from prefill_stack.errors import NotConfigured, complaint
from prefill_stack.up_checks import (
    ANY_PORT,
    check_models,
    check_platform,
    check_services,
    on_loopback,
    parse_tenants,
)


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "localhost:7080", "[::1]:7080", "127.9.9.9:65535"]
)
def test_addresses_of_this_machine_alone(listen):
    assert on_loopback(listen)
    check_platform(listen, ANY_PORT, None, [])


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:7080", "10.0.0.1:7080", "example.com:443"])
def test_plain_http_leaves_no_machine(listen):
    assert not on_loopback(listen)
    with pytest.raises(NotConfigured, match="plain HTTP"):
        check_platform(listen, ANY_PORT, None, [])


@pytest.mark.parametrize(
    "listen", ["", "7080", ":7080", "127.0.0.1", "127.0.0.1:22x", "127.0.0.1:65536"]
)
def test_what_is_no_address_is_told_by_its_form(listen):
    with pytest.raises(NotConfigured, match="HOST:PORT"):
        on_loopback(listen)


@pytest.mark.parametrize(
    ("listen", "tls", "hosts"),
    [
        ("127.0.0.1:9", None, []),
        (ANY_PORT, True, []),
        (ANY_PORT, False, []),
        (ANY_PORT, None, ["a"]),
    ],
)
def test_options_of_the_small_cloud_are_not_dropped_in_silence(listen, tls, hosts):
    with pytest.raises(NotConfigured, match="--small"):
        check_platform(ANY_PORT, listen, tls, hosts)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a\nb", "a" * 65])
def test_a_tenant_that_names_no_file_is_refused_before_anything_starts(name):
    with pytest.raises(NotConfigured, match="--tenant"):
        parse_tenants(["demo", name])


def test_names_of_tenants_pass_and_one_is_there_without_any():
    assert parse_tenants(["Ärzte GmbH", "a-b_c.d"]) == ("Ärzte GmbH", "a-b_c.d")
    assert parse_tenants([]) == ("demo",)


@pytest.fixture
def folders():
    return {shipped.MQAR: shipped.checkpoint(shipped.MQAR)}


def test_shipped_models_and_known_profiles_pass(folders):
    for profile in ("fp32", "bf16-cache"):
        check_models(folders, profile)


def test_an_unknown_profile_is_refused(folders):
    with pytest.raises(Exception, match="'fp16' is unknown") as refused:
        check_models(folders, "fp16")
    assert "bf16-cache" in complaint(refused.value).remedy
    assert refused.value.remedy == "use bf16-cache or fp32"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no config.json"),
        ("{", "checkpoint mine"),
        ('{"model_type": "llama"}', "'llama' is not supported"),
    ],
)
def test_what_is_no_checkpoint_is_refused_before_anything_starts(tmp_path, config, words):
    if config is not None:
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(NotConfigured, match=words):
        check_models({"mine": tmp_path}, "fp32")


def test_a_checkpoint_without_weights_is_refused(tmp_path, folders):
    source = folders[shipped.MQAR] / "config.json"
    (tmp_path / "config.json").write_bytes(source.read_bytes())
    with pytest.raises(NotConfigured, match="checkpoint mine"):
        check_models({"mine": tmp_path}, "fp32")


def test_services_of_other_machines_need_tls():
    check_services("", "")
    check_services("postgresql://u:p@127.0.0.1/d", "rediss://u:p@redis.example/0")
    with pytest.raises(NotConfigured, match=r"--database-url.*db.example"):
        check_services("postgresql://u:hush@db.example/d", "")
    with pytest.raises(NotConfigured, match=r"--redis-url.*plain text"):
        check_services("", "redis://u:hush@redis.example/0")
