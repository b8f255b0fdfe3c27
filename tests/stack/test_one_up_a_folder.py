"""A folder belongs to one `up`: a second would overwrite and remove the first one's access file."""

import os
import subprocess
import sys

import pytest
from prefill_stack.errors import NotConfigured
from prefill_stack.up_folder import (
    LOCK_FILE,
    NotRunning,
    held,
    load_access,
    save_access,
    started,
)


def test_a_second_up_is_refused_and_told_of_the_first(tmp_path):
    first, second = held(tmp_path), held(tmp_path)
    with first, pytest.raises(NotConfigured, match=f"pid {os.getpid()}") as caught, second:
        pass
    assert "--directory" in caught.value.remedy


def test_the_folder_is_free_again_after_the_first(tmp_path):
    with held(tmp_path):
        pass
    with held(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()} {started(os.getpid())}\n"


def test_two_folders_do_not_meet(tmp_path):
    with held(tmp_path / "a"), held(tmp_path / "b"):
        pass


@pytest.fixture
def left(tmp_path):
    """A folder with the access of an `up`."""
    save_access(tmp_path, {"endpoint": "127.0.0.1:7"})
    return tmp_path


def locked_by(folder, pid, began):
    (folder / LOCK_FILE).write_text(f"{pid} {began}\n", encoding="utf-8")


def test_access_of_an_up_that_was_killed_is_not_used(left):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    locked_by(left, process.pid, started(process.pid))
    assert load_access(left) == {"endpoint": "127.0.0.1:7"}
    process.kill()
    process.communicate()
    with pytest.raises(NotRunning, match=f"pid {process.pid}") as caught:
        load_access(left)
    assert "`prefill-cloud up`" in caught.value.remedy


def test_another_process_of_the_same_id_is_not_taken_for_it(left):
    locked_by(left, os.getpid(), "1")
    with pytest.raises(NotRunning):
        load_access(left)


@pytest.mark.parametrize("lock", ["", "7\n", "nonsense\n"])
def test_a_lock_that_says_nothing_does_not_judge(left, lock):
    (left / LOCK_FILE).write_text(lock, encoding="utf-8")
    assert load_access(left)


def test_access_brought_from_elsewhere_is_used(left):
    assert load_access(left)
    assert load_access(left / "nothing there") == {}
