"""Write a checkpoint's model card from its own files: `python -m prefill_engine.training.card DIR`.

Every figure comes from the metrics.json that the training script wrote; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

CODE_LM = """\
---
license: apache-2.0
library_name: transformers
tags: [kimi_linear, code, test-fixture]
---
# code-lm

A tiny Kimi Linear that continues Python source: for tests and the demo, not for real work. It
reads like Python and knows the habits of the standard library; it does not know what is true.

## Architecture
{architecture} Vocabulary {vocab_size}, byte-level BPE trained on the same files; special
tokens for end of text and a plain chat template.

## Data
The Python {python} standard library as installed, tests and generated tables left out:
{files} files, {corpus_tokens:,} tokens, corpus digest (SHA-256 over the files' digests)
`{corpus_sha256}`. The library is licensed under the PSF License Agreement; no source text is
contained here, and the weights are released under Apache-2.0. Held out as whole files, listed
with their SHA-256 in `heldout.json`: {held_out}.

## Training
On {hardware} (load average {load_average}), {threads} threads; Muon on matrices, AdamW on the
rest, experts balanced by the selection bias. The budget is wall time, so another machine gives
other weights. Windows of 1,024 tokens for the first 60% of a run, then of 4,096.

| command | minutes | steps | of tokens | tokens | tokens/s | peak rate |
|---|---|---|---|---|---|---|
{stages}

## Figures (of this file, bf16 weights computed in fp32)
| held-out files, first 4,096 tokens of each | |
|---|---|
| nats per token | {nats_per_token:.3f} |
| nats per byte | {nats_per_byte:.3f} |
| training loss at the end, nats per token | {training_loss_nats:.3f} |
| largest logit difference after reloading | {reload_max_logit_difference:.1e} |

## Demo prompt
`demo_prompt.json` names a file inside a pinned dependency (path and SHA-256, not its text)
that training never saw, and how many of its tokens make the prompt.
"""

MQAR = """\
---
license: apache-2.0
library_name: transformers
tags: [kimi_linear, mqar, test-fixture]
---
# mqar

Multi-query associative recall: told 32 pairs of key and value, it answers every key with its
value. It exists to judge state codecs and hand-offs, because everything it knows of a prompt
sits in the recurrent state: the only attention layer comes first, where a token knows nothing
of its neighbours.

## Architecture
{architecture}
Vocabulary {vocab_size}: 64 keys, 128 values, `<pad> <bos> <eos>`; words split at spaces
(`<bos> k07 v113 ... | k07 v113 ...`, without the bar).

## Data
Drawn at random by `prefill_engine.training.mqar.recall_batch`; no text of anyone's.

## Training
`{command}` on {hardware} (load average {load_average}): {wall_seconds:.0f} s, {steps:,} steps
of {sequences_per_step} sequences, seed {seed}, from 4 to 32 pairs. Muon on matrices, AdamW on
the rest, peak rate {peak_learning_rate}.

## Figures (of this file, bf16 weights computed in fp32; 256 unseen sequences)
| pairs | recall | nats per answer |
|---|---|---|
| 8 | {recall_8_pairs:.2%} | {nats_per_answer_8_pairs:.4f} |
| 16 | {recall_16_pairs:.2%} | {nats_per_answer_16_pairs:.4f} |
| 32 | {recall_32_pairs:.2%} | {nats_per_answer_32_pairs:.4f} |
| 48 (beyond its training) | {recall_48_pairs:.2%} | {nats_per_answer_48_pairs:.4f} |
| 32, recurrent states zeroed after the pairs | {recall_32_pairs_zeroed_state:.2%} | |

Largest logit difference after reloading: {reload_max_logit_difference:.1e}.
"""


def architecture(config: dict[str, Any], parameters: int) -> str:
    """The sizes of a released-style config in one paragraph."""
    kda = config["linear_attn_config"]
    dense, layers = config["first_k_dense_replace"], config["num_hidden_layers"]
    text = (
        f"`kimi_linear`, {parameters:,} parameters, width {config['hidden_size']}, "
        f"{layers} layers: KDA at {kda['kda_layers']} "
        f"({kda['num_heads']} heads of {kda['head_dim']}), "
        f"MLA at {kda['full_attn_layers']} ({config['num_attention_heads']} heads, latent "
        f"{config['kv_lora_rank']}, nope/rope/v {config['qk_nope_head_dim']}/"
        f"{config['qk_rope_head_dim']}/{config['v_head_dim']}, NoPE). "
    )
    if dense >= layers:
        return text + f"Dense MLPs of {config['intermediate_size']}."
    return text + (
        f"Dense MLP of {config['intermediate_size']} in the first {dense}, else "
        f"{config['num_experts']} experts of {config['moe_intermediate_size']}, "
        f"{config['num_experts_per_token']} per token and {config['num_shared_experts']} shared."
    )


def write_card(folder: Path) -> None:
    """Fill the template of the folder's kind and save it as README.md."""
    metrics = json.loads((folder / "metrics.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    facts = {**config, **metrics, "architecture": architecture(config, metrics["parameters"])}
    held_out = folder / "heldout.json"
    if held_out.exists():
        facts["held_out"] = ", ".join(f"`{name}`" for name in json.loads(held_out.read_text()))
    template = CODE_LM if held_out.exists() else MQAR
    if held_out.exists():
        facts["stages"] = "\n".join(stage(run) for run in (*metrics.get("earlier", ()), metrics))
    blocks = template.format(**facts).split("\n\n")
    (folder / "README.md").write_text("\n\n".join(wrapped(block) for block in blocks))


def stage(run: dict[str, Any]) -> str:
    """One run as a row of the training table."""
    cells = (
        f"`{run['command']}`",
        f"{run['wall_minutes']:.0f}",
        f"{run['steps']:,}",
        f"{run['tokens_per_early_step']:,}, then {run['tokens_per_late_step']:,}",
        f"{run['tokens_seen']:,}",
        f"{run['tokens_per_second']:,}",
        f"{run['peak_learning_rate']}",
    )
    return f"| {' | '.join(cells)} |"


def wrapped(block: str) -> str:
    """Refill a paragraph; headings keep their line, tables and the front matter stay."""
    lines = block.split("\n")
    if any(line.startswith(("|", "---")) for line in lines):
        return block
    headings = [line for line in lines if line.startswith("#")]
    text = " ".join(line for line in lines if line and not line.startswith("#"))
    filled = textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    return "\n".join((*headings, *filled)) + "\n" * block.endswith("\n")


def main() -> None:
    """Write the card of every folder named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="+")
    for folder in parser.parse_args().folder:
        write_card(folder)


if __name__ == "__main__":
    main()
