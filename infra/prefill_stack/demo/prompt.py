"""The demo's prompt: a real source file, checked against the digest that the repository commits."""

import hashlib

from prefill_engine.tokenizer import load_tokenizer

from prefill_stack import shipped
from prefill_stack.errors import StackError

LEAST_TOKENS = 16_384


def read_prompt() -> list[int]:
    """Token ids of the held-out file; StackError when the file was changed or is too short."""
    facts = shipped.demo_prompt()
    content = facts.path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != facts.sha256:
        raise StackError(
            f"{facts.path} has SHA-256 {digest}, committed is {facts.sha256}",
            "run `make setup`: the pinned version of that package has the right one",
        )
    tokens = load_tokenizer(shipped.checkpoint(shipped.CODE_LM)).encode(content.decode("utf-8"))
    wanted = facts.tokens or len(tokens)
    if len(tokens) < max(wanted, LEAST_TOKENS):
        raise StackError(
            f"the demo prompt has {len(tokens)} tokens, needed are {max(wanted, LEAST_TOKENS)}",
            "restore the checkpoint folder: git checkout -- kernels",
        )
    return [int(token) for token in tokens[:wanted]]
