"""What a customer needs to know to begin: what a welcome sheet says. Without anything secret.

The first password is not on it: the operator who made its hash tells it by another way than the sheet, and
the customer changes it. An account without a password gets a token in the same way.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import quotas, specs
from vdc.access import check, visible
from vdc.names import find
from vdc.pricing import Level, cost_per_hour, per_month
from vdc.schema import Image, SecurityGroup, Template, Tenant, User, Vm, Vnet, utc_now
from vdc.security_groups import describe, rules_in
from vdc.settings import Settings
from vdc.states import HOLDING
from vdc.tariff import ITEMS, Tariff
from vdc.tariffs import in_force


def read_welcome(session: Session, name: str, settings: Settings) -> dict[str, Any]:
    """What tenant `name` has, as plain values; money is text. Raises NotFound, Forbidden."""
    tenant = find(session, Tenant, "tenant", name)
    check(session, "tenant.see", tenant.name, tenant.id)
    tariff = in_force(session, tenant, settings.prices)

    def theirs(table: Any) -> Sequence[Any]:
        query = select(table).where(table.tenant_id == tenant.id, visible(session, table))
        return session.scalars(query.order_by(table.name)).all()

    return {
        "tenant": tenant.name,
        "customer": tenant.legal_name or tenant.name,
        "seller": asdict(settings.seller),
        "contact": settings.seller_contact,
        "date": f"{utc_now():%Y-%m-%d}",
        "time_zone": tenant.time_zone,
        "accounts": [_account(user) for user in theirs(User)],
        "networks": [_network(vnet) for vnet in theirs(Vnet)],
        "machines": [_machine(vm) for vm in theirs(Vm) if vm.state in HOLDING],
        "templates": [_template(session, one, tariff) for one in theirs(Template)],
        "security_groups": [
            {"name": group.name, "rules": [describe(rule) for rule in rules_in(group)]}
            for group in theirs(SecurityGroup)
        ],
        "quota": [
            {key: row[key] for key in ("what", "used", "limit")}
            for row in quotas.rows(quotas.holders(session, tenant=tenant.name)[0])
            if row["limit"] is not None
        ],
        "prices": _prices(tariff),
        "currency": tariff.currency,
    }


def fingerprint(key: str) -> str:
    """Of a public SSH key, as `ssh-keygen -l` has it: `SHA256:...`."""
    digest = hashlib.sha256(b64decode(key.split()[1])).digest()
    return f"SHA256:{b64encode(digest).decode().rstrip('=')}"


def _account(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role,
        "password": user.password_hash is not None,
        "ssh_keys": [
            {"fingerprint": fingerprint(key), "comment": " ".join(key.split()[2:])} for key in user.ssh_keys
        ],
    }


def _network(vnet: Vnet) -> dict[str, Any]:
    return {
        "name": vnet.name,
        "cidr": vnet.cidr,
        "gateway": vnet.gateway,
        "first_address": vnet.first_address,
        "last_address": vnet.last_address,
        "dns": list(vnet.dns),
    }


def _machine(vm: Vm) -> dict[str, Any]:
    spec = specs.load(vm.spec)
    return {
        "name": vm.name,
        "state": vm.state,
        "vcpu": vm.vcpu,
        "memory_mib": vm.memory_mib,
        "disk_mib": sum(disk.size_mib for disk in spec.disks),
        "addresses": [{"network": nic.vnet.name, "address": nic.address} for nic in spec.nics],
        "ssh_keys": [fingerprint(key) for key in spec.context.ssh_keys],
        "logins": [user.name for user in spec.context.users if user.ssh_keys],
    }


def _template(session: Session, template: Template, tariff: Tariff) -> dict[str, Any]:
    size = {key: getattr(template, key) for key in ("vcpu", "memory_mib", "disk_mib")}
    image = session.get_one(Image, template.image_id).name
    hourly = cost_per_hour(tariff, Level(state="running", **size, image=image))
    return {"name": template.name, "image": image, **size, "month": str(per_month(hourly))}


def _prices(tariff: Tariff) -> list[dict[str, str]]:
    """Those that are charged, without tax; of clouds and licences the plan of a machine tells them."""
    rows = []
    for item in ITEMS:
        price = getattr(tariff, item.price)
        if isinstance(price, Decimal) and item.provider != "ec2" and price:
            rows.append({"what": item.what, "price": f"{price:f}", "per": item.unit_of_price})
    if tariff.traffic_gib:
        rows.append({"what": "traffic that is sent", "price": f"{tariff.traffic_gib:f}", "per": "GiB"})
    rows += [{"what": one.name, "price": f"{one.month:f}", "per": "month"} for one in tariff.flat]
    return rows
