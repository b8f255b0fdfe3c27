"""Whose key a request carries: the one that was given, before the one that `up` left."""

from dataclasses import replace
from pathlib import Path

import pytest
from prefill_stack.commands import up
from prefill_stack.commands.access import Access
from prefill_stack.errors import NotConfigured
from prefill_stack.local_cloud import Credentials
from prefill_stack.up_folder import save_access
from rich.console import Console

LEFT = Credentials("127.0.0.1:7080", "pck_left", "ab" * 32)


@pytest.fixture
def folder(tmp_path):
    save_access(tmp_path, vars(LEFT))
    return tmp_path


def test_a_key_that_was_given_is_used_at_the_cloud_that_up_left(folder):
    """Otherwise a request with the key of one account would be billed to another."""
    given = Access(folder, None, "pck_given", None, None).credentials()
    assert given == replace(LEFT, api_key="pck_given")


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_the_one_that_up_left_is_used(folder, key):
    assert Access(folder, None, key, None, None).credentials() == LEFT


def test_roots_of_no_endpoint_are_refused(folder):
    with pytest.raises(NotConfigured, match="--endpoint"):
        Access(folder, None, None, None, Path("ca.pem")).credentials()


def test_what_to_try_next_finds_a_cloud_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = Console(record=True, width=80)
    up.show_what_next(console, up.DEFAULT_DIRECTORY.resolve())
    assert "--directory" not in console.export_text()
    up.show_what_next(console, tmp_path / "my cloud")
    assert f"--directory '{tmp_path}/my cloud'" in console.export_text()
