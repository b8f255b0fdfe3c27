"""Values of options are judged here, by their own name; the control plane knows the same."""

import pytest
import typer
from prefill_control.access.scopes import WILDCARD, Scope
from prefill_control.tenants.models import TenantState
from prefill_control.usage.sums import GroupBy
from prefill_stack import cli
from prefill_stack.commands import keys, tenants, usage
from prefill_stack.commands.options import chosen
from prefill_stack.commands.wrong_values import WrongNumber, ranged, wrong_number
from prefill_stack.errors import NotConfigured
from typer.testing import CliRunner


def test_the_commands_know_what_the_control_plane_knows():
    assert set(keys.SCOPES) == {*(str(scope) for scope in Scope), WILDCARD}
    assert set(tenants.STATES) == {str(state) for state in TenantState}
    assert set(usage.GROUPS) == {str(group) for group in GroupBy}


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["keys", "create", "x", "--scope", "bogus"], "--scope"),
        (["keys", "list", "--state", "bogus"], "--state"),
        (["tenants", "list", "--state", "bogus"], "--state"),
        (["models", "list", "--state", "bogus"], "--state"),
        (["fleet", "list", "--role", "bogus"], "--role"),
        (["usage", "show", "--by", "bogus"], "--by"),
    ],
)
def test_what_is_none_of_them_is_refused_by_the_options_name(tmp_path, arguments, option):
    done = CliRunner().invoke(cli.app, [*arguments, "--directory", str(tmp_path)])
    assert isinstance(done.exception, NotConfigured)
    assert str(done.exception) == f"{option} 'bogus' is none"
    assert done.exception.remedy.startswith("known: ")


@pytest.mark.parametrize("tenant", ["acme", "key_1"])
def test_an_account_goes_by_its_id(tenant):
    asked = ["keys", "list", "--url", "http://127.0.0.1:1", "--credential", "pco_x", "--tenant"]
    done = CliRunner().invoke(cli.app, [*asked, tenant])
    assert isinstance(done.exception, NotConfigured)
    assert done.exception.message == f"--tenant '{tenant}' is no account's id"
    assert "tenants list" in done.exception.remedy
    beyond = CliRunner().invoke(cli.app, [*asked, "ten_1"]).exception
    assert not isinstance(beyond, NotConfigured)  # it asked the API, where nobody listens


def test_one_of_them_and_none_at_all_pass():
    assert chosen("--state", "active", ("active",)) == "active"
    assert chosen("--state", "", ("active",)) == ""


@pytest.mark.parametrize(
    ("arguments", "told", "wanted"),
    [
        (["keys", "list", "--limit", "0"], "--limit '0'", "whole number from 1 on"),
        (["usage", "receipts", "--limit", "-3"], "--limit '-3'", "whole number from 1 on"),
        (["audit", "list", "--limit", "many"], "--limit 'many'", "whole number from 1 on"),
        (["fleet", "list", "--limit", "1.5"], "--limit '1.5'", "whole number from 1 on"),
        (["prices", "quote", "m", "--", "-1"], "token_count '-1'", "whole number from 0 on"),
        (["up", "--workers", "65"], "--workers '65'", "whole number from 1 to 64"),
        (["generate", "x", "--top-p", "1.5"], "--top-p '1.5'", "number from 0 to 1"),
    ],
)
def test_a_number_that_cannot_be_is_told_with_value_range_and_remedy(arguments, told, wanted):
    done = CliRunner().invoke(cli.app, arguments, env={"PREFILL_CREDENTIAL": ""})
    assert isinstance(done.exception, WrongNumber), done.output
    assert done.exception.message == f"{told} is no {wanted}"
    assert done.exception.remedy.startswith(f"give a {wanted}; `")
    assert "--help" in done.exception.remedy
    assert done.exception.exit_code == 2


def test_every_number_of_every_command_is_worded():
    """Whatever the parser does with them: no number's refusal keeps the library's words."""
    seen = 0
    for command in commands_below(typer.main.get_command(cli.app)):
        for parameter in command.params:
            if parameter.type_descriptor.annotation not in (int, float):
                continue
            seen += 1
            with pytest.raises(typer.BadParameter) as refused:
                parameter.process_value(typer.Context(command), "no-number")
            assert "'no-number' is no" in wrong_number(refused.value).message
    assert seen > 20


def commands_below(command):
    children = getattr(command, "commands", None)
    if children is None:
        return [command]
    return [leaf for child in children.values() for leaf in commands_below(child)]


def test_other_refusals_keep_the_librarys_words():
    assert wrong_number(typer.BadParameter("is a folder")) is None
    done = CliRunner().invoke(cli.app, ["keys", "show"])
    assert "Missing argument" in done.output
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)


def test_ranges_are_words():
    bounds = [(1, None), (None, 5), (0.0, 1.0), (0.1, 10_000), (None, None)]
    words = [" from 1 on", " up to 5", " from 0 to 1", " from 0.1 to 10,000", ""]
    assert [ranged(*each) for each in bounds] == words
