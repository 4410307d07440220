"""Persistent images: an image that is the disk of one machine at a time, and keeps what that writes.

Such an image is not a golden one. Its file has another name (vdc.model.persistent_file) and can be written
to; it belongs to a tenant, is published to nobody, and nothing else is made of it while a machine has it. To
make an image persistent, or golden again, is to rename its file: no byte is copied.

At the claim the row says what the image is to be (`persistent`) and is `changing`; its `file` is the old name
until the new one is there. So whoever goes on after a crash needs the row alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from vdc import model, operations
from vdc.claims.images import ImageClaim, claim_of, image_use
from vdc.errors import Invalid, InvalidState, Unsupported
from vdc.model import ImageSeen
from vdc.names import find
from vdc.operations import Claim, Opening
from vdc.requests import SwitchImageRequest
from vdc.schema import Datastore, Image, Operation

PERSISTENT, GOLDEN = "persistent", "nonpersistent"
"""Kinds of the operations."""

CHANGING = "changing"
"""State of an image whose file is being renamed."""


@dataclass(frozen=True, slots=True)
class Switch:
    """The right to rename an image's file from `was` to that of `made.image`."""

    made: ImageClaim
    was: str

    @property
    def claim(self) -> Claim:
        return self.made.claim

    @property
    def persistent(self) -> bool:
        return self.made.act == PERSISTENT

    @property
    def said(self) -> str:
        return "persistent" if self.persistent else "no longer persistent"


def claim_switch(
    session: Session, request: SwitchImageRequest, *, actor: str, flow_run_id: str | None = None
) -> Switch:
    """Open the operation; from now on nothing is made of the image. Raises Refused."""
    kind = PERSISTENT if request.persistent else GOLDEN
    if begun := operations.open_of_run(session, kind, flow_run_id):
        return adopt(session, begun)
    image = find(session, Image, "image", request.image)
    opening = Opening(kind, "image", image.id, image.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    if image.state != "ready":
        raise InvalidState(f"Image {image.name} is {image.state}, not ready.")
    if image.persistent == request.persistent:
        raise InvalidState(f"Image {image.name} is {'' if image.persistent else 'not '}persistent already.")
    if request.persistent:
        _check_may_be_written(session, image)
    use = image_use(session, image)
    if in_the_way := str(replace(use, templates=())):
        raise InvalidState(
            f"Image {image.name} is in use: {in_the_way}. What it is can be changed when none has it."
        )
    image.persistent, image.state = request.persistent, CHANGING
    return _switch(session, image, claim)


def _check_may_be_written(session: Session, image: Image) -> None:
    """Only what is one tenant's own: whoever has it writes to it."""
    if image.tenant_id is None or image.published:
        whose = "is everyone's" if image.tenant_id is None else "is published"
        raise InvalidState(
            f"Image {image.name} {whose}, and is not written to: make a copy that is a tenant's own "
            f"(`vdc image clone {image.name} NEW --tenant TENANT`)."
        )
    if image.iso:
        raise Invalid(f"Image {image.name} is an ISO image: nobody can write to it.")
    datastore = session.get_one(Datastore, image.datastore_id)
    if not datastore.shared:
        raise Unsupported(
            f"Image {image.name} is in datastore {datastore.name}, which each host has for itself: a "
            "persistent image is in one that they share."
        )


def adopt(session: Session, operation: Operation) -> Switch:
    """Take over an open operation that renames an image's file."""
    claim = operations.take_over(session, operation)
    return _switch(session, session.get_one(Image, operation.object_id), claim)


def reopen(session: Session, image: Image, actor: str, flow_run_id: str | None) -> Switch:
    """Open an operation on an image whose file could not be renamed yet."""
    kind = PERSISTENT if image.persistent else GOLDEN
    opening = Opening(kind, "image", image.id, image.name, {})
    return _switch(
        session, image, operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    )


def _switch(session: Session, image: Image, claim: Claim) -> Switch:
    made = claim_of(session, image, claim, PERSISTENT if image.persistent else GOLDEN)
    named = model.persistent_file if image.persistent else model.image_file
    file = named(image.id, image.format)
    return Switch(replace(made, image=replace(made.image, file=file)), image.file)


def record_switched(session: Session, done: Switch, seen: ImageSeen | None) -> None:
    """Its file has the new name; `seen` is what a golden one is now, for what is checked of it.

    Raises Superseded, as the other one, where another process took the operation over.
    """
    operations.close(session, done.claim)
    image = session.get_one(Image, done.made.image.image_id)
    image.file, image.state = done.made.image.file, "ready"
    if seen is not None:
        image.size_mib, image.sha256 = -(-seen.size_bytes // 2**20), seen.sha256


def record_unfinished(session: Session, done: Switch, error: str) -> None:
    """It is not known what its file is called: its row stays, `changing`, for reconcile to go on."""
    operations.close(session, done.claim, error=error)
