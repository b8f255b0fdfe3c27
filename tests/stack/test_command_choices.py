"""Options with few values are judged here, by their own name; the control plane knows the same."""

import pytest
from prefill_control.access.scopes import WILDCARD, Scope
from prefill_control.tenants.models import TenantState
from prefill_control.usage.sums import GroupBy
from prefill_stack import cli
from prefill_stack.commands import keys, tenants, usage
from prefill_stack.commands.options import chosen
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


def test_one_of_them_and_none_at_all_pass():
    assert chosen("--state", "active", ("active",)) == "active"
    assert chosen("--state", "", ("active",)) == ""
