"""A folder belongs to one `up`: a second would overwrite and remove the first one's access file."""

import os

import pytest
from prefill_stack.commands.up import LOCK_FILE, held
from prefill_stack.errors import NotConfigured


def test_a_second_up_is_refused_and_told_of_the_first(tmp_path):
    first, second = held(tmp_path), held(tmp_path)
    with first, pytest.raises(NotConfigured, match=f"pid {os.getpid()}") as caught, second:
        pass
    assert "--directory" in caught.value.remedy


def test_the_folder_is_free_again_after_the_first(tmp_path):
    with held(tmp_path):
        pass
    with held(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"


def test_two_folders_do_not_meet(tmp_path):
    with held(tmp_path / "a"), held(tmp_path / "b"):
        pass
