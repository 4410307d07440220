"""EC2 by boto3: `ec2://REGION`, or `ec2://REGION?endpoint=URL` for another endpoint than Amazon's.

Credentials come from the environment or the standard AWS files, never from the URI. The metadata service
of the machine we run on is not asked: its role is not ours to use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.session
from botocore import exceptions
from botocore.config import Config

from drivers.contract import Access
from vdc.errors import (
    Busy,
    DriverFailure,
    HostUnreachable,
    Invalid,
    NoCapacity,
    NotFound,
    Throttled,
    TimedOut,
    VdcError,
)
from vdc.model import InstanceSeen, LaunchSpec

T = TypeVar("T")

TAG_VM = "vdc:vm"
TAG_SITE = "vdc:site"
TAG_TENANT = "vdc:tenant"
TAG_TOKEN = "vdc:token"  # noqa: S105 - the name of a tag

STATES = {
    "pending": "pending",
    "running": "running",
    "stopping": "stopped",
    "stopped": "stopped",
    "shutting-down": "gone",
    "terminated": "gone",
}
LIVE = ["pending", "running", "stopping", "stopped"]

CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientFreeAddressesInSubnet",
        "InstanceLimitExceeded",
        "VcpuLimitExceeded",
        "Unsupported",
        "InvalidInstanceType.NotFound",
    }
)
"""Another type or zone may do: not to be repeated as it was. botocore would, as the first is an HTTP 500."""
THROTTLED = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled"})
LATER = frozenset({"InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"})


def parse_uri(uri: str) -> tuple[str, str | None]:
    """Region and endpoint. Raises Invalid, without repeating what may be a credential."""
    parts = urlsplit(uri)
    query = parse_qs(parts.query)
    if "@" in uri or parts.password or set(query) - {"endpoint"}:
        raise Invalid(
            "A cloud's URI takes a region and an endpoint only: credentials come from the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE) or ~/.aws."
        )
    endpoint = query.get("endpoint", [""])[0]
    wrong = endpoint and urlsplit(endpoint).scheme not in ("http", "https")
    if parts.scheme != "ec2" or not parts.netloc or parts.path or wrong:
        raise Invalid(f"{uri!r} is not of the form ec2://REGION or ec2://REGION?endpoint=http://HOST:PORT.")
    return parts.netloc, endpoint or None


def translate(error: Exception, where: str, command: str) -> VdcError:
    """One of our errors for one of botocore's."""
    text = f"{where}: {command} failed: {error}"
    if isinstance(error, exceptions.ClientError):
        answer = error.response.get("Error", {})
        code, status = answer.get("Code", ""), error.response.get("ResponseMetadata", {})
        text = f"{where}: {command} failed: {code}: {answer.get('Message', '')}"
        if code in CAPACITY:
            return NoCapacity(text)
        if code in THROTTLED:
            return Throttled(text)
        if code in LATER or (status.get("HTTPStatusCode") or 0) >= 500:
            return Busy(text)
        return DriverFailure(text, host=where, command=command, stderr=code)
    if isinstance(error, (exceptions.ReadTimeoutError, exceptions.ConnectTimeoutError)):
        return TimedOut(text)
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return HostUnreachable(text)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return DriverFailure(
            f"{where}: there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE.",
            host=where,
            command=command,
        )
    return DriverFailure(text, host=where, command=command, stderr=str(error))


@contextmanager
def _translated(where: str, command: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.BotoCoreError, exceptions.ClientError) as error:
        raise translate(error, where, command) from error


class Ec2:
    """One region. Clients of boto3 may be used by several threads; they are made at the first call."""

    def __init__(self, uri: str, access: Access) -> None:
        self._region, self._endpoint = parse_uri(uri)
        self._access = access
        self._where = self._endpoint or f"EC2 in {self._region}"
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def _client(self, purpose: str) -> Any:
        """`launch`: never repeats a call; `read`: repeats what failed in passing."""
        with self._lock, _translated(self._where, "connect"):
            if purpose not in self._clients:
                session = botocore.session.get_session()
                providers = session.get_component("credential_provider")
                for metadata in ("container-role", "iam-role"):
                    providers.remove(metadata)
                attempts = 1 if purpose == "launch" else 3
                self._clients[purpose] = boto3.Session(
                    botocore_session=session, region_name=self._region
                ).client(
                    "ec2",
                    endpoint_url=self._endpoint,
                    config=Config(
                        connect_timeout=self._access.connect_timeout_s,
                        read_timeout=self._access.call_timeout_s,
                        retries={"mode": "standard", "total_max_attempts": attempts},
                        max_pool_connections=32,
                    ),
                )
            return self._clients[purpose]

    def _read(self, command: str, call: Callable[[Any], T]) -> T:
        client = self._client("read")
        with _translated(self._where, command):
            return call(client)

    def check_image(self, ami: str) -> None:
        try:
            found = self._read("DescribeImages", lambda c: c.describe_images(ImageIds=[ami]))["Images"]
        except DriverFailure as error:
            if error.stderr.startswith("InvalidAMIID"):
                raise NotFound(f"{self._where} has no image {ami}: {error.stderr}.") from error
            raise
        if not found:
            raise NotFound(f"{self._where} has no image {ami}.")

    def ensure_launched(self, spec: LaunchSpec) -> InstanceSeen:
        tags = {
            "Name": spec.vm_name,
            TAG_VM: spec.vm_id,
            TAG_SITE: spec.site,
            TAG_TENANT: spec.tenant,
            TAG_TOKEN: spec.token,
        }
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        client = self._client("launch")
        with _translated(self._where, f"RunInstances {spec.instance_type} in {spec.zone}"):
            answer = client.run_instances(
                ImageId=spec.ami,
                InstanceType=spec.instance_type,
                MinCount=1,
                MaxCount=1,
                ClientToken=spec.token,
                Placement={"AvailabilityZone": spec.zone},
                # What it calls its own power-off is then a stop: it is seen, and adopted.
                InstanceInitiatedShutdownBehavior="stop",
                TagSpecifications=[
                    {"ResourceType": "instance", "Tags": listed},
                    {"ResourceType": "volume", "Tags": listed},
                ],
                UserData=spec.user_data,
            )
        return _seen(answer["Instances"][0])

    def read_instances(self, site: str) -> list[InstanceSeen]:
        return self._find({f"tag:{TAG_SITE}": [site], "instance-state-name": LIVE})

    def find_instances(self, vm_id: str) -> list[InstanceSeen]:
        return self._find({f"tag:{TAG_VM}": [vm_id], "instance-state-name": LIVE})

    def _find(self, filters: dict[str, list[str]]) -> list[InstanceSeen]:
        listed = [{"Name": name, "Values": values} for name, values in filters.items()]

        def every_page(client: Any) -> list[InstanceSeen]:
            pages = client.get_paginator("describe_instances").paginate(Filters=listed)
            return [
                _seen(instance)
                for page in pages
                for reservation in page["Reservations"]
                for instance in reservation["Instances"]
            ]

        return self._read("DescribeInstances", every_page)

    def read_instance(self, instance_id: str) -> InstanceSeen | None:
        try:
            answer = self._read(
                "DescribeInstances", lambda c: c.describe_instances(InstanceIds=[instance_id])
            )
        except DriverFailure as error:
            if error.stderr.startswith("InvalidInstanceID"):
                return None
            raise
        found = [_seen(i) for r in answer["Reservations"] for i in r["Instances"]]
        return found[0] if found else None

    def ensure_terminated(self, instance_id: str) -> bool:
        try:
            answer = self._read(
                "TerminateInstances", lambda c: c.terminate_instances(InstanceIds=[instance_id])
            )
        except DriverFailure as error:
            if error.stderr.startswith("InvalidInstanceID"):
                return False
            raise
        changes = answer["TerminatingInstances"]
        return bool(changes) and STATES.get(changes[0]["PreviousState"]["Name"]) != "gone"


def _seen(instance: dict[str, Any]) -> InstanceSeen:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    return InstanceSeen(
        instance_id=instance["InstanceId"],
        state=STATES.get(instance["State"]["Name"], "pending"),
        instance_type=instance["InstanceType"],
        zone=instance["Placement"]["AvailabilityZone"],
        address=instance.get("PublicIpAddress") or instance.get("PrivateIpAddress") or "",
        vm_id=tags.get(TAG_VM, ""),
        site=tags.get(TAG_SITE, ""),
        token=tags.get(TAG_TOKEN, ""),
    )


def cloud(uri: str, access: Access) -> Ec2:
    """The driver of `ec2://REGION`."""
    return Ec2(uri, access)
