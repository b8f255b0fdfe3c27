"""The native kernels' build and cache, and row work and attention against torch."""

from __future__ import annotations

import math
import os
import stat

import pytest
import torch
from prefill_engine.workspace import Workspace
from prefill_kernels.attention import Expanded, Heads, attend
from prefill_kernels.native import library, native
from prefill_kernels.native.build import (
    NativeUnavailable,
    cache_folder,
    compiled,
    forget_temporary,
    is_private,
)
from prefill_kernels.rows import rms_norm, swiglu
from torch.nn import functional as F


@pytest.fixture(params=["native", "eager"])
def form(request, eager_kernels):
    if request.param == "eager":
        eager_kernels()
    elif native().library is None:
        pytest.skip(f"no native kernels: {native().reason}")


def test_without_a_compiler_there_is_a_reason(tmp_path):
    with pytest.raises(NativeUnavailable, match=r"no C\+\+ compiler"):
        compiled({"PATH": str(tmp_path)}, tmp_path)


def test_a_compiler_that_fails_is_named_and_leaves_nothing(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such target >&2\nexit 1\n")
    broken.chmod(0o755)
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(NativeUnavailable, match=r"broken does not compile.*no such target"):
        compiled({"CXX": str(broken), "PATH": os.environ["PATH"]}, kept)
    assert list(kept.iterdir()) == []


def test_what_was_compiled_is_found_again_until_the_flags_change(tmp_path):
    fake = tmp_path / "fake"
    told = '[ "$last" = --version ] || echo one > "$last"'
    fake.write_text(f"#!/bin/sh\nfor last; do :; done\n{told}\n")
    fake.chmod(0o755)
    environment = {"CXX": str(fake), "PATH": os.environ["PATH"]}
    kept = tmp_path / "kept"
    kept.mkdir()
    first = compiled(environment, kept)
    first.write_text("kept")
    assert compiled(environment, kept) == first
    assert first.read_text() == "kept"
    fake.write_text(fake.read_text() + "echo version 2\n")
    assert compiled(environment, kept) != first


def test_the_cache_is_the_users_alone(tmp_path):
    folder = cache_folder({"HOME": str(tmp_path)})
    assert folder.is_relative_to(tmp_path / ".cache")
    assert is_private(folder)
    folder.chmod(folder.stat().st_mode | stat.S_IWOTH)
    assert not is_private(folder)
    other = cache_folder({"HOME": str(tmp_path)})
    assert not other.is_relative_to(tmp_path)
    other.rmdir()


def test_a_folder_of_this_process_alone_is_removed_and_the_users_is_kept(tmp_path):
    passing = cache_folder({})
    assert passing.exists()
    forget_temporary(passing / "kernels.so")
    assert not passing.exists()
    kept = cache_folder({"HOME": str(tmp_path)})
    forget_temporary(kept / "kernels.so")
    assert kept.exists()


def test_the_switch_leaves_the_eager_forms_alone(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "off")
    assert library.native.__wrapped__() == library.Native(None, "PREFILL_NATIVE=off")


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (5, 37), (300, 256)])
def test_row_work_is_torchs(form, rows, width):
    random = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 2 * width, generator=random)
    weight = torch.randn(width, generator=random)
    out = torch.empty(rows, width)
    wanted = F.rms_norm(x[:, :width], (width,), weight, 1e-5)
    torch.testing.assert_close(rms_norm(x[:, :width], weight, 1e-5, out), wanted)
    wanted = F.silu(x[:, :width]) * x[:, width:]
    torch.testing.assert_close(swiglu(x, out), wanted)


def plain_attention(q, heads, rows, rope, past):
    """Softmax over every allowed key, in float64: queries begin after `past` keys."""
    keys = torch.cat([rows[..., : heads.nope], rope[:, None].expand(-1, heads.count, -1)], -1)
    scores = torch.einsum("thd,shd->hts", q.double(), keys.double()) * heads.scale
    later = torch.ones(q.shape[0], rows.shape[0], dtype=torch.bool).triu(past + 1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    return torch.einsum("hts,shv->thv", weights, rows[..., heads.nope :].double())


@pytest.mark.parametrize("sizes", [(4, 32, 16, 32), (2, 24, 8, 16), (1, 8, 4, 40)])
@pytest.mark.parametrize(("length", "past"), [(5, 0), (64, 0), (65, 300), (200, 128), (130, 1)])
def test_attention_by_blocks_is_attention(form, sizes, length, past):
    heads = Heads(*sizes, scale=0.3)
    random = torch.Generator().manual_seed(length + past)
    wide = torch.full((length, heads.count * heads.key + 9), math.nan)  # rows lie among others
    wide[:, : heads.count * heads.key] = torch.randn(length, heads.count * heads.key)
    q = wide[:, : heads.count * heads.key].view(length, heads.count, heads.key)
    total = past + length
    rows = torch.randn(total, heads.count, heads.nope + heads.value, generator=random)
    rope = torch.randn(total, heads.rope, generator=random)
    spans = [(past, total), *((at, min(at + 150, past)) for at in range(0, past, 150))]
    space = Workspace()

    def take(name, *shape):
        return space.take(name, *shape).fill_(math.nan)  # scratch of earlier calls

    def poisoned(name, *shape):
        return space.take(name, *shape) if name == "attention running" else take(name, *shape)

    blocks = [lambda a=a, b=b: Expanded(rows[a:b], rope[a:b]) for a, b in spans]
    take("attention running", 1 << 20)
    out = torch.empty(length, heads.count, heads.value)
    attend(q, heads, blocks, poisoned, out)
    wanted = plain_attention(q, heads, rows, rope, past)
    assert float((out - wanted).abs().max()) <= 5e-6
    mixed = plain_attention(q, heads, rows, rope, past + 1) if past else wanted + 1
    assert float((out - mixed).abs().max()) > 5e-6
