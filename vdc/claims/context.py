"""What machines that are claimed are told: four levels, rendered with what is known of each machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from vdc.context import Level, build, templates, values_of
from vdc.errors import Invalid
from vdc.model import VmSpec
from vdc.names import find
from vdc.rendering import Renderer
from vdc.requests import DeployRequest
from vdc.schema import Image, Secret, Site, Template, Tenant

CLOUD_BYTES = 12 * 1024
"""Of what a machine in a cloud is told: EC2 takes 16 KiB, in which it is quoted."""


def levels_of(
    session: Session, template: Template, tenant: Tenant, machine: Mapping[str, Any]
) -> list[Level]:
    """The general first. A template that is another tenant's may name nobody's secrets."""
    scopes = {None: "site", tenant.id: "tenant"}
    own = template.context | {"ssh_keys": [*template.ssh_keys, *template.context.get("ssh_keys", [])]}
    if template.start_script:
        own = {"start_script": template.start_script} | own
    return [
        Level("the site", "site", session.scalars(select(Site)).one().context),
        Level(f"tenant {tenant.name}", "tenant", tenant.context),
        Level(f"template {template.name}", scopes.get(template.tenant_id, ""), own),
        Level("the machine", "tenant", machine),
    ]


def has_templates(session: Session, request: DeployRequest, machine: Mapping[str, Any]) -> bool:
    """Whether something has to be rendered for these machines: asked before the claim."""
    template = find(session, Template, "template", request.template)
    tenant = find(session, Tenant, "tenant", request.tenant)
    return bool(templates(levels_of(session, template, tenant, machine)))


def told(
    session: Session,
    template: Template,
    tenant: Tenant,
    made: Sequence[VmSpec],
    machine: Mapping[str, Any],
    renderer: Renderer,
) -> list[VmSpec]:
    """The machines with what they are told. Raises Invalid where it cannot be rendered, or is no context."""
    levels = levels_of(session, template, tenant, machine)
    image = session.get_one(Image, template.image_id)
    values, secrets = values_of(levels), _secrets(session, tenant)
    if texts := templates(levels):
        facts = [_facts(spec, template, image, values) for spec in made]
        rendered = renderer.render(texts, facts)
        contexts = [build(s.name, levels, own, secrets) for s, own in zip(made, rendered, strict=True)]
    else:
        same = build("", levels, {}, secrets)
        contexts = [replace(same, hostname=spec.name) for spec in made]
    specs = [replace(spec, context=context) for spec, context in zip(made, contexts, strict=True)]
    for spec in specs:
        if spec.cloud and len(str(spec.context).encode()) > CLOUD_BYTES:
            raise Invalid(
                f"The context of {spec.name} is larger than {CLOUD_BYTES // 1024} KiB: too large for a "
                "machine in a cloud. Let its start script fetch what is large."
            )
    return specs


def _facts(spec: VmSpec, template: Template, image: Image, values: Mapping[str, Any]) -> dict[str, Any]:
    """What texts may name; docs/context.md has the list."""
    addresses = [
        {
            "network": nic.vnet.name,
            "address": nic.address,
            "mac": nic.mac,
            "cidr": nic.vnet.cidr,
            "prefix": ip_network(nic.vnet.cidr).prefixlen,
            "gateway": nic.vnet.gateway or "",
            "dns": list(nic.vnet.dns),
        }
        for nic in spec.nics
    ]
    return {
        "name": spec.name,
        "id": spec.vm_id,
        "tenant": spec.tenant,
        "template": template.name,
        "image": image.name,
        "vcpu": spec.vcpu,
        "memory_mib": spec.memory_mib,
        "address": addresses[0]["address"] if addresses else "",
        "addresses": addresses,
        "values": dict(values),
    }


def _secrets(session: Session, tenant: Tenant) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {"site": {}, "tenant": {}}
    query = select(Secret.tenant_id, Secret.name, Secret.id).where(
        or_(Secret.tenant_id.is_(None), Secret.tenant_id == tenant.id)
    )
    for tenant_id, name, secret_id in session.execute(query):
        found["site" if tenant_id is None else "tenant"][name] = secret_id
    return found
