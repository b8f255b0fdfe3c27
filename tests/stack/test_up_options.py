"""What `up` is asked is judged before anything starts."""

import pytest
from prefill_stack.commands.up import ANY_PORT, check_platform, on_loopback
from prefill_stack.errors import NotConfigured


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
