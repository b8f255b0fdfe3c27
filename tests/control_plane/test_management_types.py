"""The client's types mirror the API's schemas, and its exceptions the API's codes: no drift."""

import msgspec
import pytest
from prefill_cloud.manage import (
    audit,
    datacenters,
    errors,
    fleet,
    keys,
    limits,
    members,
    models,
    prices,
    routes,
    tenants,
    usage,
)
from prefill_control.audit.controller import AuditView
from prefill_control.datacenters import schemas as places
from prefill_control.errors import PROBLEMS, ProblemCode
from prefill_control.fleet import schemas as fleets
from prefill_control.keys import schemas as key_schemas
from prefill_control.members import schemas as people
from prefill_control.models import schemas as goods
from prefill_control.quotas import schemas as quotas
from prefill_control.tenants.schemas import TenantView
from prefill_control.usage import schemas as usages

MIRRORS = [
    (tenants.Tenant, TenantView),
    (members.Member, people.MemberView),
    (members.Session, people.SessionView),
    (keys.Key, key_schemas.KeyView),
    (keys.KeyValues, key_schemas.KeyInput),
    (keys.IssuedKey, key_schemas.IssuedKeyView),
    (keys.KeyCheck, key_schemas.KeyCheckView),
    (limits.Limits, quotas.LimitsView),
    (limits.LimitValues, quotas.LimitsInput),
    (datacenters.Datacenter, places.DatacenterView),
    (datacenters.DatacenterValues, places.DatacenterChange),
    (datacenters.Preference, places.PreferenceView),
    (datacenters.PreferenceValues, places.PreferenceInput),
    (datacenters.Residency, places.ResidencyView),
    (routes.RouteRequest, places.RouteInput),
    (routes.Route, places.RouteView),
    (routes.Step, places.StepView),
    (models.Model, goods.ModelView),
    (models.ModelValues, goods.ModelChange),
    (models.ModelGrant, goods.GrantView),
    (prices.Price, goods.PriceView),
    (prices.PriceValues, goods.PriceInput),
    (prices.PriceOverride, goods.OverrideView),
    (prices.OverrideValues, goods.OverrideInput),
    (prices.QuoteRequest, goods.QuoteInput),
    (prices.Quote, goods.QuoteView),
    (usage.UsageRow, usages.UsageView),
    (usage.Receipt, usages.ReceiptView),
    (usage.RequestRecord, usages.RequestView),
    (audit.AuditRow, AuditView),
    (fleet.FleetProcess, fleets.ProcessView),
    (fleet.FleetLink, fleets.LinkView),
]


def differences(mine, theirs):
    return set(mine.__struct_fields__) ^ set(theirs.__struct_fields__)


@pytest.mark.parametrize(("mine", "theirs"), MIRRORS, ids=lambda kind: kind.__name__)
def test_a_type_has_the_fields_of_its_schema(mine, theirs):
    assert differences(mine, theirs) == set()


def test_the_mirror_detector_fires_for_a_field_too_few_and_too_many():
    wider = msgspec.defstruct("Wider", [*TenantView.__struct_fields__, "colour"])
    assert differences(tenants.Tenant, wider) == {"colour"}
    assert differences(wider, TenantView) == {"colour"}


def test_what_a_newer_api_adds_is_passed_over():
    told = {"tenant_id": "ten_a", "jurisdictions": ["EU"], "version": 1, "new": {"deep": [1]}}
    read = msgspec.convert(told, datacenters.Residency)
    assert read == datacenters.Residency(tenant_id="ten_a", jurisdictions=["EU"], version=1)


def missing(table):
    return {str(code) for code in ProblemCode if code not in table}


def test_every_code_has_its_exception():
    assert missing(errors.EXCEPTIONS) == set()
    leaves = set(errors.ManagementError.__subclasses__())
    assert set(errors.EXCEPTIONS.values()) == leaves
    assert all(kind.__name__ in errors.__doc__ for kind in leaves)


def test_the_table_detector_fires():
    table = {code: kind for code, kind in errors.EXCEPTIONS.items() if code != "NAME_TAKEN"}
    assert missing(table) == {"NAME_TAKEN"}


@pytest.mark.parametrize("code", ProblemCode)
def test_a_code_and_its_status_agree(code):
    by_code = errors.kind_of(code, 0)
    by_status = errors.kind_of("A_NEWER_CODE", PROBLEMS[code].http_status)
    assert by_code is by_status or PROBLEMS[code].http_status == 402
