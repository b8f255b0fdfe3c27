"""Choose the demo's prompt: `python -m prefill_engine.training.demo --checkpoint DIR FILE...`.

A prompt is the head of a real source file of a pinned dependency, so every installation has the
same bytes and none of its text is kept here. Cut points at line ends are tried from `--tokens` on;
the one whose greedy continuation has the most distinct tokens is written to demo_prompt.json.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.kimi_linear import modeling_kimi_linear as modeling

from prefill_engine.training.kimi import kda

CONTINUATION_TOKENS = 64
PIECE_TOKENS = 2048
LINES_APART = 5


class Candidate(NamedTuple):
    """A file of an installed distribution, cut after `prompt_tokens` tokens."""

    package: str
    path: str
    prompt_tokens: int
    continuation: tuple[int, ...] = ()

    @property
    def distinct(self) -> int:
        """How many different tokens the continuation has."""
        return len(set(self.continuation))


def file_of(package: str, path: str) -> Path:
    """Where an installed distribution keeps a file, `path` relative to site-packages."""
    return Path(str(distribution(package).locate_file(path)))


def load(checkpoint: Path) -> Any:
    """The checkpoint in fp32, the chunk form under its KDA; the rest is transformers'."""
    module: Any = modeling
    module.chunk_kimi_delta_attention = kda
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model


@torch.no_grad()
def read(model: Any, ids: list[int], cache: DynamicCache) -> int:
    """Append `ids` to the cache in pieces; returns the greedy next token."""
    tokens, last = torch.tensor([ids]), 0
    for start in range(0, len(ids), PIECE_TOKENS):
        piece = tokens[:, start : start + PIECE_TOKENS]
        logits = model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        last = int(logits.argmax(-1))
    return last


def continue_greedily(model: Any, token: int, cache: DynamicCache) -> tuple[int, ...]:
    """The 64 tokens after the prompt in the cache, of which `token` is the first."""
    out = [token]
    while len(out) < CONTINUATION_TOKENS:
        token = read(model, [token], cache)
        out.append(token)
    return tuple(out)


def cut_points(ids: list[int], tokenizer: Tokenizer, at_least: int, count: int) -> list[int]:
    """The first `count` prompt lengths from `at_least` on, some lines apart, that end a line."""
    ends = [n for n in range(at_least, len(ids)) if "\n" in tokenizer.decode([ids[n - 1]])]
    return ends[::LINES_APART][:count]


def continuations(model: Any, ids: list[int], cuts: list[int]) -> Iterator[tuple[int, ...]]:
    """The greedy continuation at every cut; the text is read once."""
    cache, start = DynamicCache(config=model.config), 0
    for cut in cuts:
        token = read(model, ids[start:cut], cache)
        yield continue_greedily(model, token, copy.deepcopy(cache))
        start = cut


def describe(best: Candidate) -> dict[str, Any]:
    """What demo_prompt.json says of the chosen prompt."""
    return {
        "package": best.package,
        "version": distribution(best.package).version,
        "path": best.path,
        "sha256": hashlib.sha256(file_of(best.package, best.path).read_bytes()).hexdigest(),
        "prompt_tokens": best.prompt_tokens,
        "continuation_tokens": CONTINUATION_TOKENS,
        "continuation_distinct_tokens": best.distinct,
    }


def main() -> None:
    """Try every cut of every file, print the continuations, keep the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="+", help="package:path/inside/site-packages.py")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--cuts", type=int, default=12)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
    model, tried = load(options.checkpoint), []
    for package, path in (name.split(":") for name in options.file):
        ids = tokenizer.encode(file_of(package, path).read_bytes().decode()).ids
        cuts = cut_points(ids, tokenizer, options.tokens, options.cuts)
        for length, tokens in zip(cuts, continuations(model, ids, cuts), strict=True):
            tried.append(Candidate(package, path, length, tokens))
            print(f"== {path} {length}/{len(ids)}, {tried[-1].distinct} distinct")  # noqa: T201
            print(tokenizer.decode(tokens), flush=True)  # noqa: T201
    best = max(tried, key=lambda candidate: candidate.distinct)
    text = json.dumps(describe(best), indent=2) + "\n"
    (options.checkpoint / "demo_prompt.json").write_text(text)


if __name__ == "__main__":
    main()
