"""The two sides of every ratio: whole prefills and greedy decoding, by our engine and by theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from prefill_engine.engine import StepEngine
from prefill_engine.oracle import bind_torch_forms


class Ours:
    """Our engine on a checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.engine = StepEngine.load(folder)

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        """Open, step over all tokens, take all pieces and the last logits, close."""
        handle = self.engine.open(tokens)
        self.engine.prefill(handle, len(tokens))
        logits = self.engine.last_logits(handle)
        self.engine.close(handle)
        return logits

    def generate(self, tokens: np.ndarray, count: int) -> list[int]:
        """Prefill, then choose `count` tokens greedily."""
        engine = self.engine
        handle = engine.open(tokens)
        state = {piece.spec.key: piece.array for piece in engine.prefill(handle, len(tokens) - 1)}
        engine.close(handle)
        handle = engine.load_state(len(tokens) - 1, state, len(tokens) + count)
        chosen = [int(tokens[-1])]
        for _ in range(count):
            chosen.append(int(engine.decode_step(handle, chosen[-1]).argmax()))
        engine.close(handle)
        return chosen[1:]


class Theirs:
    """transformers on the same folder, in float32, with its own cache."""

    def __init__(self, folder: Path) -> None:
        bind_torch_forms()
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    @torch.inference_mode()
    def prefill(self, tokens: np.ndarray, step_tokens: int | None = None) -> np.ndarray:
        """One forward, or steps of `step_tokens`; the last logits."""
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        cache = DynamicCache(config=self.model.config)
        for part in torch.split(ids, step_tokens or len(tokens), dim=1):
            out = self.model(part, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return np.asarray(out.logits[0, -1].numpy())

    @torch.inference_mode()
    def generate(self, tokens: np.ndarray, count: int) -> list[int]:
        """transformers' own `generate`, greedy, never stopping early."""
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        attention = torch.ones_like(ids)
        out = self.model.generate(ids, attention_mask=attention, pad_token_id=0, **options)
        return [int(token) for token in out[0, len(tokens) :]]
