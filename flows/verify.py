"""Look whether the platform is sound: inventory, hosts, disks, images and bills."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import read
from tasks.verifying import check_bills, check_image, check_machine, compare_hosts
from vdc import verification
from vdc.access import check
from vdc.months import Window
from vdc.requests import VerifyRequest
from vdc.schema import utc_now
from vdc.verification import Check, Verified


@flow(name="verify", flow_run_name="verify", **flow_options())
def verify(request: VerifyRequest) -> Verified:
    """Everything that must hold is looked at; nothing is changed.

    Disks that a guest has open are passed over: only those of machines that are off can be checked.
    """
    read(check, "site.verify")
    images = [(image, check_image.submit(image)) for image in read(verification.images_to_check)]
    machines = [check_machine.submit(one) for one in read(verification.machines_to_check)]
    compared = compare_hosts()
    looked = [future.result() for future in machines]
    sums = {f"{image.uri}/{image.file}": future.result() for image, future in images}
    now = utc_now()
    window = Window(request.bills_since or now - timedelta(days=1), now)
    found = {
        "no operation is open": read(verification.open_operations, request.besides),
        "hosts are as the inventory says": compared,
        "no address twice": read(verification.unsound_addresses),
        "quota and capacity": read(verification.unsound_use),
        "disks": [problem for disks, _ in looked for problem in disks],
        "snapshots": [problem for _, snapshots in looked for problem in snapshots],
        "golden images": [why for _, why in sums.values() if why],
        "bills": check_bills(window),
    }
    checks = tuple(Check(name, tuple(problems)) for name, problems in found.items())
    telling.verify_result(checks)
    return Verified(checks, {key: sha256 for key, (sha256, _) in sums.items() if sha256})
