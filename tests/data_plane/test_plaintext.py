"""Without TLS nothing leaves this machine: neither the fleet's token nor a prompt."""

import pytest
from prefill_data.errors import SettingsError
from prefill_data.process import open_channel


@pytest.mark.parametrize("endpoint", ["10.0.0.5:7071", "worker:7071", "[2001:db8::1]:7071"])
async def test_a_peer_elsewhere_needs_tls(endpoint):
    with pytest.raises(SettingsError, match="not loopback"):
        open_channel(endpoint, None)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:7071", "localhost:7071", "[::1]:7071"])
async def test_a_peer_on_this_machine_does_not(endpoint):
    await open_channel(endpoint, None).close()
