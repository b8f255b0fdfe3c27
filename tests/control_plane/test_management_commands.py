"""`prefill-cloud`'s management nouns against the real application on a real socket."""

import asyncio
import datetime as dt
import json
import re
import socket
import threading

import msgspec
import pytest
import typer
import uvicorn
from control_api import START, ControlApi
from prefill_cloud.manage import errors
from prefill_cloud.manage.fleet import FleetLink, FleetProcess
from prefill_control.access.scopes import Scope
from prefill_stack import cli
from prefill_stack.commands import options
from prefill_stack.commands.fleet import link_cells, process_cells
from prefill_stack.commands.limits import parsed
from prefill_stack.commands.showing import money, text_of
from prefill_stack.errors import NotConfigured, StackError
from test_usage import FLEET, line, receipt
from typer.testing import CliRunner

ADMIN = [str(scope) for scope in Scope if scope is not Scope.PLATFORM]
FROM = START.isoformat()
PASSWORD = "correct horse battery"
NOUNS = ("tenants", "keys", "limits", "datacenters", "models", "prices", "routes", "usage", "audit",
         "fleet")  # fmt: skip
LOCAL = {("models", "inspect")}  # asks no API


class Served:
    """The application behind uvicorn on loopback, on a loop in a thread of its own."""

    def __init__(self, app_url):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._up = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(app_url),))
        self._thread.start()
        assert self._up.wait(60)
        self.operator = self.do(self.api.operator())

    async def _serve(self, app_url):
        self.loop, self.api = asyncio.get_running_loop(), ControlApi(app_url)
        config = uvicorn.Config(self.api.app, log_config=None, ws="none", lifespan="on")
        self.server = uvicorn.Server(config)
        self.loop.call_soon(self._up.set)
        await self.server.serve(sockets=[self._listener])

    def do(self, coroutine):
        """A coroutine's result, from the application's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def close(self):
        self.server.should_exit = True
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def served(urls):
    served = Served(urls.app)
    yield served
    served.close()


class Shell:
    """Runs commands as one caller; `ran` has the verbs that ended well."""

    def __init__(self, served, secret):
        self.served, self.secret, self.ran = served, secret, set()

    def run(self, *arguments, typed="", columns="", **environment):
        named = {"PREFILL_CREDENTIAL": self.secret, "COLUMNS": columns or None, **environment}
        asked = [*arguments, "--url", self.served.url]
        result = CliRunner().invoke(cli.app, asked, env=named, input=typed)
        if result.exit_code == 0:
            self.ran.add(tuple(word for word in arguments[:3] if re.fullmatch("[a-z-]+", word)))
        elif result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments, **more):
        """The document that a verb prints with --json."""
        result = self.run(*arguments, "--json", **more)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def ran_verb(self, path):
        return any(words[: len(path)] == path for words in self.ran)


@pytest.fixture
def operator(served):
    return Shell(served, served.operator.secret)


@pytest.fixture
def admin(served):
    """A shell of a fresh tenant's admin."""
    caller = served.do(served.api.caller(scopes=ADMIN))
    shell = Shell(served, caller.secret)
    shell.tenant_id, shell.caller = caller.tenant_id, caller
    return shell


SCENARIOS = []


def runs(*verbs):
    """Which verbs a scenario runs; a parametrised test plays it."""

    def made(scenario):
        SCENARIOS.append((scenario, [tuple(verb.split()) for verb in verbs]))
        return scenario

    return made


@runs("tenants create", "tenants list", "tenants show", "tenants update", "tenants suspend",
      "tenants resume", "tenants close")  # fmt: skip
def accounts(operator, _admin):
    made = operator.json("tenants", "create", "Acme")
    operator.run("tenants", "update", made["id"], "--name", "Acme Ltd")
    assert operator.json("tenants", "show", made["id"])["name"] == "Acme Ltd"
    listed = operator.run("tenants", "list", "--state", "active")
    assert made["id"] in listed.stdout
    assert "Acme Ltd" in listed.stdout
    operator.run("tenants", "suspend", made["id"], "--reason", "late", "--yes")
    operator.run("tenants", "resume", made["id"])
    asked = operator.run("tenants", "close", made["id"], typed="n\n")
    assert (asked.exit_code, "for good?" in asked.stderr) == (1, True)
    assert operator.json("tenants", "show", made["id"])["state"] == "active"
    operator.run("tenants", "close", made["id"], typed="y\n")
    assert operator.json("tenants", "show", made["id"])["state"] == "closed"


@runs("tenants members create", "tenants members list", "tenants members show",
      "tenants members update", "tenants members password", "tenants members delete",
      "tenants sign-in", "tenants sign-out")  # fmt: skip
def people(operator, admin):
    verb, given = ("tenants", "members"), {"PREFILL_NEW_PASSWORD": PASSWORD}
    made = admin.json(*verb, "create", "ada@example.com", "--name", "Ada", "--role", "developer")
    assert admin.run(*verb, "password", made["id"], **given).exit_code == 0
    session = admin.json(
        "tenants", "sign-in", "--tenant", admin.tenant_id, "--email", "ada@example.com",
        PREFILL_PASSWORD=PASSWORD,
    )  # fmt: skip
    ada = Shell(operator.served, session["token"])
    assert ada.json(*verb, "show", made["id"])["name"] == "Ada"
    ada.run("tenants", "sign-out")
    admin.ran |= ada.ran
    with pytest.raises(errors.NotAuthenticatedError):
        ada.run(*verb, "list")
    assert admin.json(*verb, "update", made["id"], "--role", "viewer")["name"] == "Ada"
    listed = operator.run(*verb, "list", "--tenant", admin.tenant_id, "--role", "viewer")
    assert "ada@example.com" in listed.stdout
    admin.run(*verb, "delete", made["id"], "-y")
    assert admin.json(*verb, "list")["items"] == []


@runs("keys create", "keys list", "keys show", "keys update", "keys rotate", "keys revoke",
      "keys check")  # fmt: skip
def a_key(_operator, admin):
    shown = admin.run("keys", "create", "build", "--address", "10.0.0.0/8", "--expires", "2000d")
    assert re.search(r"pck_\w+", shown.stdout)
    assert "this once" in shown.stdout
    (made,) = [k for k in admin.json("keys", "list")["items"] if k["name"] == "build"]
    changed = admin.json("keys", "update", made["id"], "--address", "", "--scope", "usage:read")
    assert (changed["addresses"], changed["scopes"]) == ([], ["usage:read"])
    assert changed["expires_at"] == made["expires_at"]
    assert admin.json("keys", "update", made["id"], "--expires", "")["expires_at"] is None
    next_one = admin.json("keys", "rotate", made["id"], "--overlap-seconds", "60")
    checked = admin.json("keys", "check", PREFILL_CHECKED_KEY=next_one["secret"])
    assert checked["status"] == "VALID"
    admin.run("keys", "revoke", next_one["key"]["id"], "--yes")
    assert "revoked" in admin.run("keys", "show", next_one["key"]["id"]).stdout


@runs("limits update", "limits show", "limits list", "limits delete")
def limits_of_a_key(_operator, admin):
    key = admin.caller.key_id
    first = admin.json("limits", "update", key, "--set", "concurrency=3")
    changed = ("--set", "day_tokens_hard=5000", "--set", "concurrency=")
    second = admin.json("limits", "update", key, *changed)
    assert (first["concurrency"], second["concurrency"]) == (3, None)
    assert "5,000" in admin.run("limits", "show", key).stdout
    assert len(admin.json("limits", "list")["items"]) == 1
    admin.run("limits", "delete", key, "--yes")
    with pytest.raises(errors.NotFoundError):
        admin.run("limits", "show", key)


@runs("datacenters create", "datacenters list", "datacenters show", "datacenters update",
      "datacenters cordon", "datacenters uncordon", "datacenters drain", "datacenters undrain",
      "datacenters preference", "datacenters residency")  # fmt: skip
def places(operator, admin):
    noun = "datacenters"
    operator.run(noun, "create", "fra", "--jurisdiction", "EU", "--endpoint", "fra.eu:443",
                 "--accelerator", "h100=8")  # fmt: skip
    assert operator.json(noun, "update", "fra", "--rtt-ms", "9")["accelerators"] == {"h100": 8}
    for move, state in (("cordon", "cordoned"), ("uncordon", "active"), ("undrain", "active")):
        assert operator.json(noun, move, "fra")["state"] == state
    assert operator.json(noun, "drain", "fra", "--yes")["state"] == "draining"
    operator.json(noun, "undrain", "fra")
    assert "h100=8" in operator.run(noun, "show", "fra").stdout
    assert "fra" in admin.run(noun, "list", "--jurisdiction", "EU").stdout
    wish = admin.json(noun, "preference", "--wish", "fra", "--max-price-micros", "7")
    assert (wish["wishes"], wish["max_price_micros"]) == (["fra"], 7)
    lifted = ("--max-price-micros", "-1", "--wish", "", "--no-fallback")
    assert admin.json(noun, "preference", *lifted)["max_price_micros"] is None
    assert admin.json(noun, "preference")["fallback"] is False
    named = ("--tenant", admin.tenant_id)
    assert operator.json(noun, "residency", *named, "--jurisdiction", "EU")["version"] == 1
    with pytest.raises(NotConfigured, match="lift the rule"):
        admin.run(noun, "residency", "--jurisdiction", "", "--json")
    assert admin.json(noun, "residency", "--jurisdiction", "", "-y")["jurisdictions"] == []


@runs("models create", "models list", "models show", "models update", "models retire",
      "models restore", "models grants create", "models grants list",
      "models grants delete")  # fmt: skip
def the_catalogue(operator, admin):
    from prefill_stack import shipped

    folder = str(shipped.checkpoint(shipped.MQAR))
    made = operator.json("models", "create", "mqar", "--checkpoint", folder, "--restricted")
    assert len(made["fingerprint"]) == 64
    assert admin.json("models", "list")["items"] == []
    granted = operator.json("models", "grants", "create", "mqar", "--tenant", admin.tenant_id)
    assert "mqar" in admin.run("models", "list").stdout
    assert granted["id"] in operator.run("models", "grants", "list").stdout
    operator.run("models", "grants", "delete", granted["id"], "--yes")
    changed = operator.json("models", "update", "mqar", "--open", "--codec", "raw")
    assert (changed["restricted"], changed["codecs"]) == (False, ["raw"])
    operator.run("models", "retire", "mqar", "--yes")
    assert operator.json("models", "show", "mqar")["state"] == "retired"
    operator.run("models", "restore", "mqar")


@runs("prices create", "prices list", "prices quote", "prices overrides create",
      "prices overrides list", "routes explain")  # fmt: skip
def prices_and_routes(operator, admin):
    from prefill_stack import shipped

    folder = str(shipped.checkpoint(shipped.MQAR))
    operator.run("models", "create", "priced", "--checkpoint", folder)
    operator.run("datacenters", "create", "iad", "--jurisdiction", "US", "--endpoint", "iad:443",
                 "--model", "priced")  # fmt: skip
    rates = ("--input-miss-micros", "2000000", "--input-hit-micros", "500000", "--valid-from", FROM)
    operator.run("prices", "create", "priced", *rates)
    listed = admin.run("prices", "list", "--model", "priced").stdout
    assert "2.00 USD" in listed
    assert "for a million tokens" in listed
    quoted = admin.json("prices", "quote", "priced", "1000", "--cached-tokens", "400")
    assert (quoted["amount_micros"], quoted["bound_micros"]) == (1400, 2000)
    assert "0.0014" in admin.run("prices", "quote", "priced", "1000", "--cached-tokens",
                                 "400").stdout  # fmt: skip
    named = ("--tenant", admin.tenant_id)
    operator.run("prices", "overrides", "create", "priced", *rates, *named)
    own = operator.json("prices", "overrides", "list", *named)["items"]
    assert [row["tenant_id"] for row in own] == [admin.tenant_id]
    told = admin.run("routes", "explain", "priced", "100000")
    assert "iad" in told.stdout.splitlines()[-1]
    assert admin.json("routes", "explain", "priced", "100000")["datacenter"] == "iad"


@runs("usage show", "usage receipts", "usage requests", "usage request", "audit list")
def what_happened(operator, admin):
    api, made = operator.served.api, None
    made = receipt(api, admin.caller)
    body = {"lines": [line(api, made)]}
    operator.served.do(api.client.post("/internal/receipts", json=body, headers=FLEET))
    (row,) = admin.json("usage", "show", "--by", "model", "--by", "day")["items"]
    assert (row["group"], row["amount_micros"]) == ({"model": "kimi", "day": "2026-03-01"}, 77)
    assert "0.000077 USD" in admin.run("usage", "show", "--by", "model").stdout
    assert made.receipt_id in admin.run("usage", "receipts").stdout
    assert (
        made.request_id in admin.run("usage", "requests", "--until", "2030-01-01T00:00:00Z").stdout
    )
    told = admin.json("usage", "request", made.request_id)
    assert told["timeline"]["prefill_us"] == 20
    admin.json("keys", "create", "seen")
    useless = "which no gateway takes"
    assert useless in operator.run("keys", "create", "mine").stdout
    assert useless not in operator.run("keys", "create", "ours", "--scope", "platform").stdout
    assert useless not in admin.run("keys", "create", "mine").stdout
    (audited,) = admin.json("audit", "list", "--action", "keys.create", "--since", "9000d",
                            "--limit", "1")["items"]  # fmt: skip
    assert audited["actor_id"] in {admin.caller.key_id, "install"}


@runs("fleet list", "fleet links")
def the_fleet(operator, admin):
    assert operator.json("fleet", "list", "--role", "worker")["items"] == []
    assert operator.json("fleet", "links")["items"] == []
    assert "datacenter" in operator.run("fleet", "list").stdout
    assert "round trip" in operator.run("fleet", "links").stdout
    with pytest.raises(errors.ForbiddenError):
        admin.run("fleet", "list")


def test_what_a_fleet_tells_is_shown():
    facts = dict.fromkeys(FleetProcess.__struct_fields__, 0) | {
        "role": "gateway", "name": "g", "datacenter": "fra", "state": "live", "version": "1",
        "silent_ms": 1200, "memory_used_bytes": 3 << 20, "models": [], "live_workers": 2,
        "links": [FleetLink(to="iad", live=True, rtt_ms=81.25, mbps=0.0)],
    }  # fmt: skip
    gateway = FleetProcess(**facts)
    worker = msgspec.structs.replace(gateway, models=["kimi"], memory_cap_bytes=4 << 20, links=[])
    assert process_cells(gateway)[4:] == ["1,200 ms", "1", "0", "3.00 MiB", "2 live"]
    assert process_cells(worker)[-2:] == ["3.00 MiB of 4.00 MiB", "kimi"]
    large = msgspec.structs.replace(worker, memory_used_bytes=1 << 29, memory_cap_bytes=4 << 30)
    assert process_cells(large)[-2] == "0.50 of 4.00 GiB"
    assert link_cells([gateway, worker]) == [["fra", "iad", "live", "81.2 ms", "not measured"]]


def leaves(command, path=()):
    """Every verb below a command, as words."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path
        return
    for name, child in children.items():
        yield from leaves(child, (*path, name))


def management_verbs():
    tree = typer.main.get_command(cli.app)
    return {path for path in leaves(tree) if path[0] in NOUNS} - LOCAL


def test_every_verb_has_a_scenario():
    assert management_verbs() == {verb for _, verbs in SCENARIOS for verb in verbs}
    assert {path[0] for path in management_verbs()} == set(NOUNS)


def test_the_detector_finds_a_verb_that_is_new():
    tree = typer.main.get_command(cli.app)
    keys = tree.commands["keys"]
    before = set(leaves(tree))
    keys.commands["borrow"] = keys.commands["show"]
    assert set(leaves(tree)) - before == {("keys", "borrow")}


@pytest.mark.parametrize(("scenario", "verbs"), SCENARIOS, ids=lambda v: getattr(v, "__name__", ""))
def test_the_verbs_work(operator, admin, scenario, verbs):
    scenario(operator, admin)
    missed = [verb for verb in verbs if not (operator.ran_verb(verb) or admin.ran_verb(verb))]
    assert missed == []


def test_a_refusal_is_one_line_and_its_remedy(operator, capsys):
    with pytest.raises(errors.NotFoundError) as refused:
        operator.run("keys", "show", "key_nowhere")
    assert cli.report(refused.value) == 1
    told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: no such API key \(NOT_FOUND, req_\w+\)", told[0])
    assert "Check the id" in told[1]
    assert len(told) == 2


def test_an_endpoint_that_is_none_is_told_in_words(operator):
    asked = ("datacenters", "create", "fra", "--jurisdiction", "EU", "--endpoint", "fra")
    with pytest.raises(errors.InvalidInputError, match=r"host, a colon and a port, such as gw\.eu"):
        operator.run(*asked)


def test_what_cannot_be_taken_back_is_never_done_unasked(operator):
    made = operator.json("tenants", "create", "Kept")
    for more in ((), ("--json",)):
        with pytest.raises(NotConfigured, match="nobody agreed") as refused:
            operator.run("tenants", "close", made["id"], *more)
        assert "--yes" in refused.value.remedy
    assert operator.json("tenants", "show", made["id"])["state"] == "active"


def test_lists_are_cut_and_go_on(admin):
    for number in range(3):
        admin.run("keys", "create", f"key {number}")
    first = admin.json("keys", "list", "--limit", "2")
    rest = admin.json("keys", "list", "--cursor", first["next_cursor"])
    assert [len(page["items"]) for page in (first, rest)] == [2, 2]  # and the caller's own
    assert rest["next_cursor"] == ""
    assert "--cursor" in admin.run("keys", "list", "--limit", "2").stderr


def test_nothing_is_cut_in_a_pipe_or_on_a_narrow_terminal(admin):
    made = admin.json("keys", "create", "narrow")["key"]["id"]
    (row,) = [line for line in admin.run("keys", "list").stdout.splitlines() if made in line]
    assert "narrow" in row
    rows = admin.run("keys", "list", columns="60").stdout.splitlines()
    assert max(map(len, rows)) <= 60
    first_column = "".join(row[1:].split("│")[0].strip() for row in rows if row.startswith("│"))
    assert made in first_column


def test_an_operator_names_the_account_of_a_wish(operator):
    with pytest.raises(NotConfigured, match="many accounts"):
        operator.run("datacenters", "preference")


@pytest.fixture
def folder(tmp_path, served):
    """What `up` leaves."""
    document = {"management_url": served.url, "operator_credential": served.operator.secret}
    (tmp_path / "cloud.json").write_text(json.dumps(document))
    return tmp_path


def run_in(folder, *arguments, **environment):
    named = {"PREFILL_CREDENTIAL": "", **environment}
    asked = [*arguments, "--directory", str(folder), "--json"]
    result = CliRunner().invoke(cli.app, asked, env=named)
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_the_folder_that_up_left_is_enough(folder, admin):
    assert len(run_in(folder, "tenants", "list", "--limit", "2")["items"]) == 2
    own = run_in(folder, "tenants", "list", PREFILL_CREDENTIAL=admin.secret)["items"]
    assert [row["id"] for row in own] == [admin.tenant_id]


def test_the_operators_credential_goes_to_no_other_url(folder):
    with pytest.raises(NotConfigured, match="--url needs a credential"):
        run_in(folder, "tenants", "list", "--url", "https://elsewhere.example")


@pytest.mark.parametrize(
    ("document", "words"),
    [(None, "names none"), ("{", "damaged"), ("[]", "damaged"), ('{"a": 1}', "names none"),
     ('{"management_url": "http://127.0.0.1:1"}', "no credential")],
)  # fmt: skip
def test_a_folder_without_access_is_told(tmp_path, document, words):
    if document is not None:
        (tmp_path / "cloud.json").write_text(document)
    with pytest.raises(StackError, match=words):
        run_in(tmp_path, "tenants", "list")


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0.00"), (1, "0.000001"), (77, "0.000077"), (1_500_000, "1.50"), (-250_000, "-0.25"),
     (1_234_567_890_123, "1,234,567.890123"), (10**15, "1,000,000,000.00")],
)  # fmt: skip
def test_money_is_shown_exactly(micros, text):
    assert money(micros) == text
    assert text_of("amount_micros", micros) == text


NOON = dt.datetime(2026, 1, 10, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "later", "before"),
    [("", None, None), ("2d", NOON + dt.timedelta(2), NOON - dt.timedelta(2)),
     ("30m", NOON + dt.timedelta(minutes=30), NOON - dt.timedelta(minutes=30)),
     ("2026-01-10T13:00:00+01:00", NOON, NOON)],
)  # fmt: skip
def test_times_have_a_zone_or_a_distance(text, later, before):
    assert options.moment("--expires", text, NOON) == later
    assert options.since("--since", text, NOON) == before


@pytest.mark.parametrize("text", ["2026-01-10T12:00:00", "soon", "9" * 30 + "d", "-3d", "d"])
def test_a_time_that_is_none_is_refused(text):
    for judged in (options.moment, options.since):
        with pytest.raises(NotConfigured, match=f"--at '{text}' is no time"):
            judged("--at", text, NOON)


def test_limits_and_counts_are_named_when_wrong():
    assert parsed(["a=1", "b="], ("a", "b")) == {"a": 1, "b": None}
    for wrong in ("c=1", "a", "a=-1", "a=x"):
        with pytest.raises(NotConfigured, match="--set") as refused:
            parsed([wrong], ("a", "b"))
        remedy = "limits: a, b" if wrong in ("c=1", "a") else "to lift this limit"
        assert remedy in refused.value.remedy
    with pytest.raises(NotConfigured, match="NAME=COUNT"):
        options.counts(["h100"])
