"""The claim and the record of an image's import."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vdc import model, operations
from vdc.claims.deploy import host_ref
from vdc.errors import NoCapacity, Unready
from vdc.model import HostRef, ImageSpec
from vdc.names import find, require_new
from vdc.operations import Claim, Opening
from vdc.requests import ImportImageRequest
from vdc.schema import Datastore, Host, HostDatastore, Image, new_id


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """Where an import goes: `host` is one that mounts the datastore."""

    datastore_uri: str
    disk_format: str
    host: HostRef


@dataclass(frozen=True, slots=True)
class ImageClaim:
    claim: Claim
    image: ImageSpec
    target: ImageTarget


def check_import(session: Session, request: ImportImageRequest) -> ImageTarget:
    """Raises Refused where the name is taken, or no enabled host mounts the datastore."""
    require_new(session, Image, "Image", request.name)
    datastore = find(session, Datastore, "datastore", request.datastore)
    host = session.scalars(
        select(Host)
        .join(HostDatastore, HostDatastore.host_id == Host.id)
        .where(HostDatastore.datastore_id == datastore.id, Host.state == "enabled")
        .order_by(Host.name)
    ).first()
    if host is None:
        raise Unready(
            f"No enabled host mounts datastore {datastore.name}: enroll one with `vdc host enroll`."
        )
    return ImageTarget(datastore.uri, datastore.disk_format, host_ref(host))


def claim_import(
    session: Session,
    request: ImportImageRequest,
    *,
    size_mib: int,
    virtual_size_mib: int,
    sha256: str,
    stored_sha256: str,
    actor: str,
    flow_run_id: str | None = None,
) -> ImageClaim:
    """Insert the image as `importing`.

    `sha256` is that of the file given, `stored_sha256` that of the file to be stored (they differ where it
    was converted). Raises Refused.
    """
    target = check_import(session, request)
    datastore = find(session, Datastore, "datastore", request.datastore)
    if datastore.free_mib is not None and size_mib > datastore.free_mib:
        raise NoCapacity(
            f"Datastore {datastore.name} has {datastore.free_mib} MiB free, "
            f"image {request.name} needs {size_mib}."
        )
    image_id = new_id()
    image = Image(
        id=image_id,
        name=request.name,
        datastore_id=datastore.id,
        state="importing",
        file=model.image_file(image_id, target.disk_format),
        format=target.disk_format,
        virtual_size_mib=virtual_size_mib,
        size_mib=size_mib,
        sha256=sha256,
    )
    session.add(image)
    session.flush()
    spec = request.model_dump(mode="json") | {"host": target.host.name}
    opening = Opening("import", "image", image_id, request.name, spec)
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    return ImageClaim(
        claim, ImageSpec(image_id, image.file, image.format, virtual_size_mib, stored_sha256), target
    )


def record_imported(session: Session, claim: ImageClaim) -> None:
    operations.close(session, claim.claim)
    session.get_one(Image, claim.image.image_id).state = "ready"


def record_import_failed(session: Session, claim: Claim, image_id: str, error: str) -> None:
    """Forget the image, once nothing of it is left in the datastore."""
    operations.close(session, claim, error=error)
    session.execute(delete(Image).where(Image.id == image_id))
