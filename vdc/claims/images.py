"""The claims of importing and deleting images, and what is written when it is over.

An image is made under an operation, and `ready` when its bytes are stored and checked. What was begun and
not finished is removed: by whoever began it, else by reconcile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from vdc import model, operations
from vdc.access import asking, check
from vdc.claims.deploy import check_usable, host_ref
from vdc.errors import InvalidState, NoCapacity, Unready
from vdc.image_sources import check_source
from vdc.model import HostRef, ImageSpec
from vdc.names import find, require_new
from vdc.operations import Claim, Opening
from vdc.requests import DeleteImageRequest, ImportImageRequest
from vdc.schema import (
    Cdrom,
    Cloud,
    CloudImage,
    Datastore,
    Disk,
    Host,
    HostDatastore,
    Image,
    Operation,
    Template,
    Tenant,
    Vm,
    new_id,
    utc_now,
)
from vdc.storage import room_of
from vdc.usage import Use, check_quota
from vdc.usage_events import record_image_use

IMPORT, DELETE = "import", "delete"
"""Kinds of operations on images."""

NAMED = 5
"""How many users of an image a refusal names."""


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """Where an image is: `host` is that by which it came, `others` mount the datastore too."""

    datastore_uri: str
    disk_format: str
    host: HostRef
    others: tuple[HostRef, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageClaim:
    """The right to make or remove an image; `act` is the operation's kind."""

    claim: Claim
    act: str
    name: str
    image: ImageSpec
    target: ImageTarget


@dataclass(frozen=True, slots=True)
class ImageUse:
    """What stands on an image, by name."""

    templates: tuple[str, ...]
    vms: tuple[str, ...]
    """Machines that have it in a drive, or a disk made from it: of a copy too, as it is made again."""
    clouds: tuple[str, ...]

    def __str__(self) -> str:
        """`template tiny; machines web-1, web-2`; empty where nothing does."""
        words = (("template", self.templates), ("machine", self.vms), ("cloud", self.clouds))
        return "; ".join(named(word, names) for word, names in words if names)


def named(word: str, names: Sequence[str]) -> str:
    """`machine web`, `machines web-1, web-2`, `machines a, b, c, d, e and 7 more`."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{word}{'s' * (len(names) > 1)} {', '.join(names[:NAMED])}{more}"


def image_use(session: Session, image: Image) -> ImageUse:
    templates = select(Template.name).where(Template.image_id == image.id).order_by(Template.name)
    of_disks = select(Disk.vm_id).where(Disk.image_id == image.id)
    in_drives = select(Cdrom.vm_id).where(Cdrom.image_id == image.id)
    vms = select(Vm.name).where(or_(Vm.id.in_(of_disks), Vm.id.in_(in_drives))).order_by(Vm.name)
    clouds = select(Cloud.name).join(CloudImage).where(CloudImage.image_id == image.id).order_by(Cloud.name)
    return ImageUse(*(tuple(session.scalars(query).unique()) for query in (templates, vms, clouds)))


def check_import(session: Session, request: ImportImageRequest) -> ImageTarget:
    """Raises Refused where the source is none, the name taken, or no enabled host mounts the datastore."""
    check(session, "image.import", request.name)
    check_source(request.file, request.sha256)
    require_new(session, Image, "Image", request.name)
    if request.tenant:
        find(session, Tenant, "tenant", request.tenant)
    datastore = find(session, Datastore, "datastore", request.datastore)
    host = next((h for h in _mounting(session, datastore.id) if h.state == "enabled"), None)
    if host is None:
        raise Unready(
            f"No enabled host mounts datastore {datastore.name}: enroll one with `vdc host enroll`."
        )
    return target_on(session, datastore, host)


def _mounting(session: Session, datastore_id: str) -> Sequence[Host]:
    query = select(Host).join(HostDatastore, HostDatastore.host_id == Host.id)
    return session.scalars(query.where(HostDatastore.datastore_id == datastore_id).order_by(Host.name)).all()


def target_on(session: Session, datastore: Datastore, host: Host) -> ImageTarget:
    """The datastore as `host` sees it."""
    others = (host_ref(h) for h in _mounting(session, datastore.id) if h.id != host.id)
    return ImageTarget(datastore.uri, datastore.disk_format, host_ref(host), tuple(others))


def claim_import(
    session: Session,
    request: ImportImageRequest,
    *,
    size_mib: int,
    virtual_size_mib: int,
    sha256: str,
    stored_sha256: str,
    iso: bool = False,
    actor: str,
    flow_run_id: str | None = None,
) -> ImageClaim:
    """Insert the image as `importing`.

    `sha256` is that of the file given, `stored_sha256` that of the file to be stored (they differ where it
    was converted; an ISO image is not). Raises Refused.
    """
    target = check_import(session, request)
    datastore = find(session, Datastore, "datastore", request.datastore)
    room = room_of(session, datastore, target.host.name)
    if room.free_mib is not None and size_mib > room.free_mib:
        raise NoCapacity(
            f"Datastore {datastore.name} has {room.free_mib} MiB free, image {request.name} needs {size_mib}."
        )
    tenant = find(session, Tenant, "tenant", request.tenant) if request.tenant else None
    if tenant:
        check_quota(session, tenant, Use(images=1), asking(session).user_id)
    image_id = new_id()
    image = Image(
        id=image_id,
        name=request.name,
        tenant_id=tenant.id if tenant else None,
        owner_id=asking(session).user_id or None,
        published=tenant is None,
        datastore_id=datastore.id,
        host_id=find(session, Host, "host", target.host.name).id,
        state="importing",
        file=model.image_file(image_id, "iso" if iso else target.disk_format),
        format="raw" if iso else target.disk_format,
        iso=iso,
        virtual_size_mib=virtual_size_mib,
        size_mib=size_mib,
        sha256=sha256,
    )
    session.add(image)
    session.flush()
    spec = request.model_dump(mode="json") | {"host": target.host.name}
    opening = Opening(IMPORT, "image", image_id, request.name, spec)
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    stored = ImageSpec(image_id, image.file, image.format, virtual_size_mib, stored_sha256)
    return ImageClaim(claim, IMPORT, image.name, stored, target)


def claim_delete(
    session: Session, request: DeleteImageRequest, *, actor: str, flow_run_id: str | None = None
) -> ImageClaim:
    """Open the operation and mark the image as leaving. Raises Refused, also where something uses it."""
    if begun := operations.open_of_run(session, DELETE, flow_run_id):
        return adopt(session, begun)
    image = find(session, Image, "image", request.image)
    opening = Opening(DELETE, "image", image.id, image.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    if image.state not in ("ready", "deleting"):
        raise InvalidState(
            f"Image {image.name} is {image.state}: wait for it; if its process died, "
            "`vdc reconcile` removes what is left."
        )
    if use := str(image_use(session, image)):
        raise InvalidState(f"Image {image.name} is in use: {use}. It can be deleted when nothing uses it.")
    return leaving(session, image, claim, DELETE)


def leaving(session: Session, image: Image, claim: Claim, act: str) -> ImageClaim:
    """Mark an image as being removed: nothing new is made from it."""
    image.state = "deleting"
    return claim_of(session, image, claim, act)


def claim_of(session: Session, image: Image, claim: Claim, act: str) -> ImageClaim:
    """What is being done to an image whose row is there."""
    datastore = session.get_one(Datastore, image.datastore_id)
    target = target_on(session, datastore, session.get_one(Host, image.host_id))
    spec = ImageSpec(image.id, image.file, image.format, image.virtual_size_mib, image.sha256)
    return ImageClaim(claim, act, image.name, spec, target)


def adopt(session: Session, operation: Operation) -> ImageClaim:
    """Take over an open import or deletion."""
    claim = operations.take_over(session, operation)
    return claim_of(session, session.get_one(Image, operation.object_id), claim, operation.kind)


def publish(session: Session, name: str, *, published: bool, actor: str) -> bool:
    """Let every tenant use an image, or its own tenant alone again; False where it was so already.

    Machines that were made from it stay. Raises Refused.
    """
    image = find(session, Image, "image", name)
    verb = "publish" if published else "unpublish"
    opening = Opening(verb, "image", image.id, image.name, {})
    claim = operations.open_one(session, opening, actor=actor)
    check_usable(session, image)
    if not published and image.tenant_id is None:
        raise InvalidState(f"Image {name} belongs to no tenant: it is everyone's.")
    if published and image.persistent:
        raise InvalidState(f"Image {name} is persistent: its tenant alone may write to it.")
    changed = image.published != published
    image.published = published
    operations.close(session, claim)
    return changed


def record_imported(session: Session, claim: ImageClaim) -> None:
    operations.close(session, claim.claim)
    image = session.get_one(Image, claim.image.image_id)
    image.state = "ready"
    record_image_use(session, image, claim.claim, "stored", utc_now())


def record_removed(session: Session, done: ImageClaim, error: str = "") -> None:
    """Forget an image of which nothing is left; `error` is why it was not made, if that was the reason.

    Raises Superseded, as the others here, where another process took the operation over.
    """
    operations.close(session, done.claim, error=error or None)
    image = session.get_one(Image, done.image.image_id)
    record_image_use(session, image, done.claim, "removed", utc_now())
    session.delete(image)


def record_unfinished(session: Session, done: ImageClaim, error: str) -> None:
    """Something of it may be left: its row stays, `deleting`, for reconcile to go on."""
    operations.close(session, done.claim, error=error)
    session.get_one(Image, done.image.image_id).state = "deleting"
