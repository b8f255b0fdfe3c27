"""The command line: a user's mistake is one line and a remedy, never a trace."""

import errno
import json
import subprocess
import sys

import pytest
import typer
from prefill_cloud.errors import error_for
from prefill_stack import benches, cli
from prefill_stack.errors import NotConfigured, StackError, complaint
from prefill_stack.up_checks import parse_checkpoints
from prefill_wire.status import StatusCode
from typer.testing import CliRunner


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "prefill_stack.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_version_names_what_decides_results():
    done = command("version", "--json")
    assert done.returncode == 0, done.stderr
    assert {"python", "torch", "transformers"} <= set(json.loads(done.stdout))


def test_help_lists_the_commands():
    text = CliRunner().invoke(cli.app, ["--help"]).stdout
    for name in ("demo", "up", "generate", "models", "version", "bench"):
        assert name in text


def every_verb(command, *path):
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from every_verb(below, *path, name)


def test_help_names_what_is_given_and_no_type_of_the_language():
    paths = list(every_verb(typer.main.get_command(cli.app)))
    assert ("keys", "create") in paths
    for path in paths:
        done = CliRunner().invoke(cli.app, [*path, "--help"])
        assert done.exit_code == 0, path
        assert "list[" not in done.stdout, path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "x"], "no running cloud is known here"),
        (["generate", "x", "--endpoint", "127.0.0.1:1"], "go together"),
        (["generate", "", "--local"], "the prompt is empty"),
        (["generate", "x", "--file", "y", "--local"], "are two prompts"),
        (["generate", "--file", "missing.txt"], "missing.txt"),
        (["generate", "x", "--tls-roots", "ca.pem"], "--endpoint"),
        (["generate", "x", "--local", "--checkpoint", "gone"], "gone is no folder"),
        (["models", "inspect", "."], "is no checkpoint"),
    ],
)
def test_a_mistake_is_one_line_and_a_remedy(tmp_path, arguments, words):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_generating_here_asks_no_cloud(tmp_path):
    """A fixed point of the shipped checkpoint: what is streamed is what the object holds."""
    options = ["--local", "--max-new-tokens", "8"]
    streamed = command("generate", "def main():", *options, cwd=tmp_path)
    done = command("generate", "def main():", *options, "--json", cwd=tmp_path)
    assert (streamed.returncode, done.returncode) == (0, 0), streamed.stderr + done.stderr
    told = json.loads(done.stdout)
    assert (told["route"], told["prompt_tokens"], len(told["tokens"])) == ("here", 3, 8)
    assert streamed.stdout == told["text"] + "\n"
    assert "request_id" not in told


@pytest.mark.parametrize(
    ("arguments", "words", "remedy"),
    [
        (["no-such-command"], "no-such-command", "`prefill-cloud --help`"),
        (["keys", "create"], "'name'", "`prefill-cloud keys create --help`"),
        (["keys", "list", "--bogus"], "--bogus", "`prefill-cloud keys list --help`"),
        (["generate", "--codec-policy", "odd"], "'odd' is not one", "`prefill-cloud generate"),
    ],
)
def test_wrong_usage_is_one_line_and_a_remedy_and_exits_with_two(
    tmp_path, arguments, words, remedy
):
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    message, told = done.stderr.strip().splitlines()
    assert words in message
    assert "Value error" not in message
    assert remedy in told


def test_a_noun_without_a_verb_shows_its_help_alone(tmp_path):
    done = command("limits", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert "Show the limits of a key" in done.stdout


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_secret_that_nobody_enters_is_no_bug(tmp_path, as_json):
    done = command("keys", "check", *as_json, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "nothing was entered" in done.stderr


@pytest.mark.parametrize("option", ["no-separator", "=folder", "name="])
def test_a_malformed_checkpoint_option_is_named(option):
    with pytest.raises(NotConfigured, match="NAME=FOLDER"):
        parse_checkpoints([option])


def test_checkpoint_options_are_pairs(tmp_path):
    assert parse_checkpoints([f"a={tmp_path}"]) == {"a": tmp_path.resolve()}


def test_any_error_with_a_remedy_becomes_a_line():
    class ElsewhereError(Exception):
        remedy = "turn it on"

    assert complaint(ElsewhereError("it is off")).message == "it is off"
    assert complaint(StackError("a", "b")).exit_code == 1
    assert "make setup" in complaint(ModuleNotFoundError("No module named 'torch'")).remedy
    assert "missing" in complaint(FileNotFoundError(2, "No such file", "missing")).message


def test_a_bug_is_told_from_a_mistake(capsys):
    assert complaint(ZeroDivisionError("x")) is None
    assert cli.report(ZeroDivisionError("x")) == cli.BUG_EXIT_CODE
    assert "PREFILL_DEBUG" in capsys.readouterr().err


def test_benches_are_found_by_their_file_names():
    assert "prefill" in benches.names()


def test_a_bench_list_says_what_each_measures():
    told = json.loads(command("bench", "list", "--json").stdout)["benches"]
    assert set(told) == set(benches.names())
    assert all(len(words) > 20 for words in told.values())


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["tenants", "list", "--json"], 1, "no running management API"),
        (["generate", "x", "--json"], 1, "no running cloud"),
        (["tenants", "list", "--json", "--limit", "none"], 2, "--limit"),
        (["tenants", "nonsense", "--json"], 2, "nonsense"),
        (["keys", "create", "--json"], 2, "Missing argument"),
        (["bench", "nonsense", "--json"], 1, "nonsense"),
    ],
)
def test_an_error_under_json_is_json(tmp_path, arguments, exit_code, words):
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (exit_code, "")
    error = json.loads(done.stderr)["error"]
    assert words in error["message"]
    assert error["remedy"]
    assert error["exit_code"] == exit_code


def test_a_refusals_code_and_request_are_told_to_programs():
    refused = error_for(StatusCode.KEY_REVOKED, "the key was revoked", "req_1")
    told = complaint(refused).document()
    assert (told["code"], told["request_id"]) == ("KEY_REVOKED", "req_1")
    assert "code" not in complaint(StackError("a", "b")).document()


def test_a_full_disk_is_named():
    assert "disk is full" in complaint(OSError(errno.ENOSPC, "No space left", "/x")).message
    assert "disk is full" not in complaint(OSError(errno.EACCES, "Permission denied", "/x")).message
