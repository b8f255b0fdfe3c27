"""Write a trained model as the released checkpoint writes it: names, dtype, config."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, KimiLinearForCausalLM

# What transformers derives from `linear_attn_config` and its like; the release does not write it.
DERIVED = (
    "layer_types",
    "mlp_layer_types",
    "linear_conv_kernel_dim",
    "linear_head_dim",
    "linear_num_heads",
    "qk_head_dim",
)
GENERATION_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def round_to_bf16(model: KimiLinearForCausalLM) -> None:
    """Give the weights the precision they are shipped in, so that the figures are the file's."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(tensor.to(torch.bfloat16))


def export(model: KimiLinearForCausalLM, folder: Path) -> None:
    """Save config and bf16 weights under the released tensor names, each file replaced at once."""
    folder.mkdir(parents=True, exist_ok=True)
    saved: Any = KimiLinearForCausalLM(model.config)
    saved.load_state_dict(model.state_dict())
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fresh = Path(scratch)
        saved.to(torch.bfloat16).save_pretrained(fresh)
        dense = (model.config.mlp_layer_types or []).count("dense")
        tensors = load_file(fresh / "model.safetensors")
        released = {_released(name, dense): value for name, value in tensors.items()}
        save_file(released, fresh / "model.safetensors", metadata={"format": "pt"})
        write_configs(fresh)
        for path in fresh.iterdir():
            path.chmod(0o644)
            os.replace(path, folder / path.name)


def _released(name: str, dense_layers: int) -> str:
    """transformers writes the dense first layers as experts' parents; the release says `mlp`."""
    parts = name.split(".")
    if "block_sparse_moe" in parts and int(parts[2]) < dense_layers:
        parts[parts.index("block_sparse_moe")] = "mlp"
    return ".".join(parts)


def write_configs(folder: Path) -> None:
    """Rewrite both configs with the release's keys, sorted, so that a rerun changes nothing."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    kept = {name: value for name, value in config.items() if name not in DERIVED}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    generation = {name: config[name] for name in GENERATION_KEYS if config.get(name) is not None}
    text = json.dumps({"do_sample": False, **generation}, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text)


@torch.no_grad()
def reload_difference(model: KimiLinearForCausalLM, folder: Path, tokens: Tensor) -> float:
    """Largest difference in logits between a model, rounded to bf16, and its folder read back."""
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reloaded.config._attn_implementation = model.config._attn_implementation
    ours = model(tokens, use_cache=False).logits
    theirs = reloaded(tokens, use_cache=False).logits
    return float((ours - theirs).abs().max())
