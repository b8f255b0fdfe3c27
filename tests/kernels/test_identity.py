"""The fingerprint of a checkpoint: what it notices, what it does not, and its cache."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from prefill_engine.errors import CheckpointError
from prefill_engine.identity import identify
from prefill_engine.random_checkpoint import write_random_checkpoint
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = write_random_checkpoint(tmp_path_factory.mktemp("original"), 1)
    (folder / "tokenizer.json").write_text('{"a": 1}')
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "checkpoint")


def prints(folder, **options):
    identity = identify(folder, **options)
    return identity.fingerprint, identity.tokenizer_fingerprint


def rewrite(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def one_bit(tensors):
    tensors["model.norm.weight"].view(-1)[0] += 1e-6


def renamed(tensors):
    tensors["model.norm.weight2"] = tensors.pop("model.norm.weight")


def reshaped(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].view(2, -1)


def retyped(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].view(torch.int32)


def lacking(tensors):
    del tensors["model.norm.weight"]


@pytest.mark.parametrize("change", [one_bit, renamed, reshaped, retyped, lacking])
def test_a_changed_tensor_is_another_model(original, folder, change):
    assert prints(folder) == prints(original)
    rewrite(folder, change)
    model, tokenizer = prints(folder)
    assert model != prints(original)[0]
    assert tokenizer == prints(original)[1]


def test_a_changed_config_is_another_model_and_its_formatting_is_not(original, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert prints(folder) == prints(original)
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))
    assert prints(folder)[0] != prints(original)[0]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_changed_tokenizer_is_another_tokenizer_alone(original, folder, name):
    (folder / name).write_text('{"a": 2}')
    model, tokenizer = prints(folder)
    assert model == prints(original)[0]
    assert tokenizer != prints(original)[1]


def test_how_tensors_are_spread_over_files_does_not_count(original, folder):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, kept in parts.items():
        save_file({name: tensors[name] for name in kept}, folder / file)
    weight_map = {name: file for file, kept in parts.items() for name in kept}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert prints(folder) == prints(original)
    (folder / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"two.safetensors is missing; restore"):
        identify(folder)


def test_the_name_is_the_folders(folder):
    assert identify(folder).name == "checkpoint"
    assert identify(folder).on_the_wire("fp32", "served").name == "served"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / WEIGHTS).unlink(), "model.safetensors is missing"),
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (lambda f: (f / INDEX).write_text("{}"), "index.json has no weight_map"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {"a": "../x"}}'), "outside the folder"),
        (lambda f: os.truncate(f / WEIGHTS, 5), "header of|no safetensors header"),
        (lambda f: os.truncate(f / WEIGHTS, 100), "no safetensors header"),
        (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 1), "ends inside"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 64), "header of"),
    ],
)
def test_a_folder_with_files_missing_or_broken_is_refused_by_file(folder, spoil, message):
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        identify(folder)


def test_kept_digests_are_used_until_the_file_changes(folder, tmp_path):
    kept = tmp_path / "cache" / "digests"
    fresh = prints(folder)
    assert prints(folder, cache_dir=kept) == fresh
    (entry,) = kept.iterdir()
    entry.write_text(json.dumps({"a": "b"}))
    assert prints(folder, cache_dir=kept) != fresh  # it was read: nothing else changed
    entry.write_text("{torn")
    assert prints(folder, cache_dir=kept) == fresh
    assert len(list(kept.iterdir())) == 1


def test_a_newer_or_larger_file_is_hashed_again(folder, tmp_path):
    kept = tmp_path / "digests"
    before = prints(folder, cache_dir=kept)
    stat = (folder / WEIGHTS).stat()
    rewrite(folder, one_bit)
    os.utime(folder / WEIGHTS, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert prints(folder, cache_dir=kept) == prints(folder) != before
    rewrite(folder, lacking)
    os.utime(folder / WEIGHTS, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert prints(folder, cache_dir=kept) == prints(folder)
