"""What a checkpoint folder is, and what its state costs to move."""

from pathlib import Path

LENGTHS_TOKENS = (1_024, 16_384, 131_072, 1_048_576)


def describe(folder: Path, profile: str) -> dict[str, object]:
    """Identity, shape and state sizes of a checkpoint folder, without loading its weights."""
    from prefill_engine.identity import identify
    from prefill_engine.schema import state_schema

    identity = identify(folder)
    config = identity.config
    schema = state_schema(config, profile)
    # A state covers at least one token; sizes are linear in the tokens.
    per_token = schema.nbytes(2) - schema.nbytes(1)
    fixed = schema.nbytes(1) - per_token
    kinds: dict[str, int] = {}
    for layer in schema.layers:
        kinds[layer.kind.name.lower()] = kinds.get(layer.kind.name.lower(), 0) + 1
    shown = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    return {
        "name": identity.name,
        "fingerprint": _hex(identity.fingerprint),
        "tokenizer_fingerprint": _hex(identity.tokenizer_fingerprint),
        "numerics_profile": profile,
        "config": {name: config.get(name) for name in shown if name in config},
        "state_tensors": kinds,
        "state_bytes_per_token": per_token,
        "state_bytes_fixed": fixed,
        "state_bytes_at_tokens": {str(n): schema.nbytes(n) for n in LENGTHS_TOKENS},
    }


def _hex(value: bytes | str) -> str:
    return value.hex() if isinstance(value, bytes) else value
