"""Every table, imported once: what migrations compare the database with."""

from prefill_control.audit.models import AuditRow
from prefill_control.datacenters.models import Datacenter, DatacenterPreference, Residency
from prefill_control.keys.models import ApiKey
from prefill_control.members.models import Member, MemberSession, SignInTries
from prefill_control.models.models import Model, ModelGrant, Price, PriceOverride
from prefill_control.orm import Base
from prefill_control.quotas.models import Limits
from prefill_control.tenants.models import Tenant
from prefill_control.usage.models import Receipt, RequestRecord, UsageHour
from prefill_control.web.models import RememberedAnswer

metadata = Base.metadata

__all__ = [
    "ApiKey",
    "AuditRow",
    "Datacenter",
    "DatacenterPreference",
    "Limits",
    "Member",
    "MemberSession",
    "Model",
    "ModelGrant",
    "Price",
    "PriceOverride",
    "Receipt",
    "RememberedAnswer",
    "RequestRecord",
    "Residency",
    "SignInTries",
    "Tenant",
    "UsageHour",
    "metadata",
]
