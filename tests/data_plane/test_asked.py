"""Public keys that nothing can be sealed to, against X25519 itself; what makes two Opens one."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hand_client import HandClient
from prefill_data.gateway.asked import LOW_ORDER, body_digest, usable_public_key

TOP_BIT = 1 << 255


def agrees(public):
    """Whether X25519 agrees on a secret with it: OpenSSL refuses a secret of zeros."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("point", sorted(LOW_ORDER))
@pytest.mark.parametrize("top", [0, TOP_BIT])
def test_a_point_of_low_order_is_refused_as_x25519_refuses_it(point, top):
    public = (point + top).to_bytes(32, "little")
    assert not agrees(public)
    assert not usable_public_key(public)


def test_every_other_key_is_taken_as_x25519_takes_it():
    """The twin: neighbours of the points of low order, keys that are not reduced, real keys."""
    near = {(point + step) % TOP_BIT for point in LOW_ORDER for step in (-1, 1)} - LOW_ORDER
    unreduced = {2**255 - 19 + more for more in range(2, 19)}
    publics = [value.to_bytes(32, "little") for value in near | unreduced]
    publics += [X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(20)]
    for public in publics:
        assert agrees(public)
        assert usable_public_key(public)


def test_the_time_that_is_left_makes_no_other_request():
    hand = HandClient(cloud=None)
    first = body_digest(hand.open_request(deadline_ms=1))
    assert body_digest(hand.open_request(deadline_ms=2)) == first
    assert body_digest(hand.open_request(deadline_ms=1, max_price_micros=1)) != first
