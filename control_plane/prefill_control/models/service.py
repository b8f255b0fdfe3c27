"""The catalogue of models; operators change it, tenants see what they may use."""

from __future__ import annotations

from dataclasses import dataclass

from prefill_wire.ids import new_id

from prefill_control.audit.service import Change, picture, record
from prefill_control.errors import not_found
from prefill_control.etags import check_version
from prefill_control.models import repository
from prefill_control.models.models import Model, ModelGrant
from prefill_control.models.prices import price_at
from prefill_control.models.pricing import PriceTerms
from prefill_control.pages import PageOf, PageRequest
from prefill_control.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDraft:
    """A model to be; fingerprints are hex."""

    fingerprint: str
    tokenizer_fingerprint: str
    numerics_profile: str
    context_tokens: int
    codecs: list[str]
    restricted: bool


def viewer(work: Work) -> str | None:
    """Whose eyes a catalogue is read with; None for an operator."""
    return None if work.actor.is_operator else work.tenant_id


async def create(work: Work, name: str, draft: ModelDraft) -> Model:
    """A new, active model."""
    model = Model(name=name, state="active", created_at=work.now)
    _fill(model, draft)
    work.session.add(model)
    await work.session.flush()
    record(work, Change("models.create", "model", name, None, picture(model)))
    return model


async def read(work: Work, name: str) -> Model:
    """The model; NOT_FOUND for an absent one and for one that the tenant may not use."""
    model = await repository.find(work.session, name, viewer(work))
    if model is None:
        raise not_found("model")
    return model


async def page(work: Work, state: str, asked: PageRequest) -> PageOf[Model]:
    """Models that the caller may see."""
    return await repository.page(work.session, state, viewer(work), asked)


async def change(work: Work, name: str, draft: ModelDraft, version: int | None) -> Model:
    """Everything but name and state; another fingerprint means another checkpoint."""
    model = await read(work, name)
    check_version(model.version, version)
    before = picture(model)
    _fill(model, draft)
    await work.session.flush()
    record(work, Change("models.update", "model", name, before, picture(model)))
    return model


async def set_state(work: Work, name: str, state: str) -> Model:
    """Retire a model, or bring it back; doing it again changes nothing."""
    model = await read(work, name)
    if model.state != state:
        before = picture(model)
        model.state = state
        await work.session.flush()
        record(work, Change(f"models.{state}", "model", name, before, picture(model)))
    return model


async def grant(work: Work, name: str) -> ModelGrant:
    """Put the work's tenant on the allow-list of a model."""
    model = await read(work, name)
    row = ModelGrant(
        id=new_id("grt", work.random),
        tenant_id=work.tenant_id,
        model=model.name,
        created_at=work.now,
    )
    work.session.add(row)
    await work.session.flush()
    record(work, Change("model_grants.create", "model_grant", row.id, None, picture(row)))
    return row


async def withdraw(work: Work, grant_id: str) -> None:
    """Take a tenant off the allow-list."""
    row = await repository.grant(work.session, grant_id)
    if row is None:
        raise not_found("model grant")
    before, tenant_id = picture(row), row.tenant_id
    await work.session.delete(row)
    await work.session.flush()
    record(work, Change("model_grants.delete", "model_grant", grant_id, before), tenant_id)


async def price_now(work: Work, name: str) -> PriceTerms | None:
    """What the work's tenant pays for a model now."""
    return await price_at(work.session, name, work.tenant_id, work.now)


def _fill(model: Model, draft: ModelDraft) -> None:
    for name in ModelDraft.__slots__:
        setattr(model, name, getattr(draft, name))
