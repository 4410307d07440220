"""Writing down and looking at contexts: of the site, a tenant, a template; and what a machine was told.

In the inventory alone: audited functions, no flows. Machines that are there are told nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, secrets, specs
from vdc.access import check
from vdc.claims.terminate import find_vm
from vdc.names import find
from vdc.operations import Opening
from vdc.schema import Site, Template, Tenant


def _row(session: Session, tenant: str, template: str) -> tuple[str, Site | Tenant | Template]:
    if template:
        return "template", find(session, Template, "template", template)
    if tenant:
        return "tenant", find(session, Tenant, "tenant", tenant)
    return "site", session.scalars(select(Site)).one()


def set_context(
    session: Session, content: Mapping[str, Any], *, tenant: str = "", template: str = "", actor: str
) -> list[str]:
    """Make this what a tenant's, a template's or (neither) the site's machines are told from now on.

    `content` is what vdc.context.read_context made of it. Returns the fields that changed. Raises NotFound,
    Forbidden.
    """
    kind, row = _row(session, tenant, template)
    name = "site" if isinstance(row, Site) else row.name
    check(session, f"{kind}.context", name, row.id)
    fields = sorted(row.context.keys() | content.keys())
    changed = [field for field in fields if row.context.get(field) != content.get(field)]
    if changed:
        # Which fields, and not what is in them: that may be anything.
        opening = Opening("context", kind, row.id, name, {"changed": changed})
        operations.close(session, operations.open_one(session, opening, actor=actor))
        row.context = dict(content)
    return changed


def read_level(session: Session, *, tenant: str = "", template: str = "") -> dict[str, Any]:
    """A level as it was written. Raises NotFound, Forbidden."""
    kind, row = _row(session, tenant, template)
    check(session, f"{kind}.see-context", "site" if isinstance(row, Site) else row.name, row.id)
    return dict(row.context)


def read_told(session: Session, name: str, tenant: str = "") -> dict[str, Any]:
    """What a machine was told, with `<secret NAME>` for each secret. Raises NotFound, Forbidden."""
    vm = find_vm(session, name, tenant)
    check(session, "vm.see-context", vm.name, vm.id)
    return asdict(secrets.shown(session, specs.load(vm.spec).context))
