"""Services off this machine are reached over verified TLS, or not at all."""

import pytest
from prefill_control.errors import SettingsError as ControlSettingsError
from prefill_control.settings import ControlSettings
from prefill_data.errors import SettingsError
from prefill_data.settings import Environment, read_link
from prefill_fleet.service_urls import refuse_postgres, refuse_redis
from prefill_wire.loopback import is_loopback

FAR = "db.example"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://u:hush@db.example:6379/0", "plain text"),
        ("redis://db.example", "plain text"),
        ("redis://127.evil.example/0", "plain text"),
        ("redis://127.0.0.1@db.example/0", "plain text"),
        ("rediss://u:hush@db.example/0?ssl_cert_reqs=none", "without verifying"),
        ("rediss://db.example/0?ssl_check_hostname=False", "without verifying"),
        ("rediss://db.example/0?ssl_check_hostname=n", "without verifying"),
        ("rediss://db.example/0?ssl_cert_reqs=none&ssl_cert_reqs=required", "without verifying"),
        ("http://db.example", "is none"),
        ("redis://[::1", "is none"),
        ("", "is none"),
    ],
)
def test_a_redis_that_others_could_listen_to_is_refused(url, words):
    refusal = refuse_redis(url)
    assert words in refusal.message
    assert "hush" not in refusal.message + refusal.remedy


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:p@127.0.0.1:6379/0",
        "redis://localhost",
        "redis://[::1]:6379/0",
        "rediss://u:p@db.example:6380/0",
        "rediss://db.example/0?ssl_cert_reqs=required&ssl_check_hostname=true",
        "unix:///run/redis.sock",
    ],
)
def test_a_redis_here_or_over_tls_is_taken(url):
    assert refuse_redis(url) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:hush@db.example/d", "without TLS"),
        ("postgresql://u:hush@db.example/d?sslmode=require", "sslmode=require"),
        ("postgresql://db.example/d?sslmode=verify-full&sslmode=disable", "full,disable"),
        ("postgresql://127.0.0.1,db.example/d", "db.example"),
        ("postgresql:///d?host=db.example", "db.example"),
        ("postgresql://127.0.0.1/d?host=db.example", "db.example"),
        ("postgresql:///d", "names no host"),
        ("mysql://127.0.0.1/d", "is none"),
    ],
)
def test_a_postgres_that_others_could_listen_to_is_refused(url, words):
    refusal = refuse_postgres(url)
    assert words in refusal.message
    assert "hush" not in refusal.message + refusal.remedy


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@127.0.0.1:5432/d",
        "postgres://u:p@localhost/d?sslmode=disable",
        "postgresql://u:p@db.example/d?sslmode=verify-full&sslrootcert=/ca.pem",
        "postgresql:///d?host=/run/postgresql",
    ],
)
def test_a_postgres_here_or_over_verified_tls_is_taken(url):
    assert refuse_postgres(url) is None


def test_no_process_takes_a_plain_url_of_another_machine(tmp_path):
    values = {"PREFILL_REDIS_URL": f"redis://u:hush@{FAR}/0"}
    with pytest.raises(SettingsError, match=FAR) as refused:
        read_link(values, Environment(values))
    assert "rediss://" in refused.value.remedy
    for name, url in (("DATABASE", f"postgresql://{FAR}/d"), ("REDIS", f"redis://{FAR}/0")):
        with pytest.raises(ControlSettingsError, match=FAR):
            ControlSettings.read(control_values(tmp_path, **{name: url}))
    assert ControlSettings.read(control_values(tmp_path)).redis_url


def control_values(folder, **urls):
    """Settings of a control plane with services on this machine, but for these."""
    contents = {
        "PEPPER_FILE": "p" * 32,
        "DATABASE_URL_FILE": urls.get("DATABASE", "postgresql://u:p@127.0.0.1/d"),
        "REDIS_URL_FILE": urls.get("REDIS", "redis://127.0.0.1/0"),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="ascii")
    return {f"PREFILL_{name}": str(folder / name) for name in contents}


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("LOCALHOST", True),
     ("127.evil.example", False), ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_one_place_says_what_this_machine_is(host, here):
    assert is_loopback(host) is here
