"""transformers alone, in a process of its own: what our tokens and logits are compared with.

`python -m prefill_engine.oracle --checkpoint DIR --question PROMPT.npy ANSWER.npz --max-new 64`
imports none of our kernels and runs none of fla's; `--question` may be given again. A prompt goes
in by steps, so that its memory stays bounded; an answer holds `tokens` [n] int64, greedy, and
`logits` [n, vocab] float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.models.kimi_linear import modeling_kimi_linear

REPLACEABLE = (
    "chunk_kimi_delta_attention",
    "recurrent_kimi_delta_attention",
    "causal_conv1d_fn",
    "causal_conv1d_update",
)


def bind_torch_forms() -> None:
    """Make transformers run its own torch code, whatever kernel packages are installed.

    Where `fla` can be imported, it binds fla's Triton kernels to these four names, and they fail
    without a GPU ("0 active drivers"); with one, they would be another oracle.
    """
    for name in REPLACEABLE:
        bound = getattr(modeling_kimi_linear, name)
        setattr(modeling_kimi_linear, name, getattr(bound, "__wrapped__", bound))


@torch.inference_mode()
def continue_greedily(
    model: PreTrainedModel, prompt: np.ndarray, max_new: int, step_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy tokens and their logits after `prompt` `[T]`, computed in float32."""
    cache = DynamicCache(config=model.config)
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    chosen: list[int] = []
    logits: list[np.ndarray] = []
    portions = [ids[:, at : at + step_tokens] for at in range(0, len(prompt), step_tokens)]
    while len(chosen) < max_new:
        for portion in portions:
            last = model(portion, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        logits.append(last[0, -1].numpy())
        chosen.append(int(last[0, -1].argmax()))
        portions = [torch.tensor([[chosen[-1]]])]
    return np.array(chosen), np.array(logits)


def main() -> None:
    """Read prompts, write their continuations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(
        "--question",
        type=Path,
        nargs=2,
        action="append",
        required=True,
        metavar=("PROMPT.npy", "ANSWER.npz"),
        help="uint32 token ids, and where their continuation goes",
    )
    parser.add_argument("--max-new", type=int, default=64)
    parser.add_argument("--step", type=int, default=2048)
    options = parser.parse_args()
    bind_torch_forms()
    model = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.float32)
    for question, answer in options.question:
        prompt = np.load(question, allow_pickle=False)
        tokens, logits = continue_greedily(model, prompt, options.max_new, options.step)
        np.savez(answer, tokens=tokens, logits=logits)


if __name__ == "__main__":
    main()
