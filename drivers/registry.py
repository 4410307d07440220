"""Which driver serves which URI. Adding a driver: one file, one line here, one row in the contract suite."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast
from urllib.parse import urlsplit

from drivers.contract import (
    Access,
    Cloud,
    Datastore,
    DatastoreCapabilities,
    Hypervisor,
    HypervisorCapabilities,
    Network,
    NetworkCapabilities,
)
from vdc.errors import Invalid
from vdc.model import HostRef

# scheme -> "module:function"; imported when first used, so that a reading command does not load libvirt.
HYPERVISORS: Mapping[str, str] = {
    "qemu+ssh": "drivers.hypervisor.libvirt:hypervisor",
    "simulated": "drivers.simulated:hypervisor",
}
DATASTORES: Mapping[str, str] = {
    "qcow2": "drivers.datastore.qcow2:datastore",
    "raw": "drivers.datastore.raw:datastore",
    "local": "drivers.datastore.local:datastore",
    "nfs": "drivers.datastore.nfs:datastore",
    "simulated": "drivers.simulated:datastore",
}
NETWORKS: Mapping[str, str] = {
    "vlan": "drivers.network.vlan:network",
    "bridge": "drivers.network.bridge:network",
    "vxlan": "drivers.network.vxlan:network",
    "simulated": "drivers.simulated:network",
}

CLOUDS: Mapping[str, str] = {
    "ec2": "drivers.cloud.ec2:cloud",
    "simulated": "drivers.simulated.cloud:cloud",
}

_objects: dict[tuple[object, ...], Any] = {}
_lock = threading.Lock()


def hypervisor(host: HostRef, access: Access) -> Hypervisor:
    """The hypervisor of `host`, one object per process and host. Raises Invalid for an unknown scheme."""
    return cast(Hypervisor, _driver("host", HYPERVISORS, host.uri, host, access))


def datastore(uri: str, host: HostRef, access: Access) -> Datastore:
    """The datastore `uri` as worked on from `host`. Raises Invalid for an unknown scheme."""
    return cast(Datastore, _driver("datastore", DATASTORES, uri, host, access))


def hypervisor_capabilities(uri: str) -> HypervisorCapabilities:
    """What the hypervisor at a host's URI can do; no host is asked. Raises Invalid."""
    return cast(HypervisorCapabilities, _capabilities("host", HYPERVISORS, uri))


def datastore_capabilities(uri: str) -> DatastoreCapabilities:
    """What a datastore at `uri` can do; no host is asked. Raises Invalid."""
    return cast(DatastoreCapabilities, _capabilities("datastore", DATASTORES, uri))


def network_capabilities(uri: str) -> NetworkCapabilities:
    """What networks on the uplink `uri` can do; no host is asked. Raises Invalid."""
    return cast(NetworkCapabilities, _capabilities("network", NETWORKS, uri))


def network(uri: str, host: HostRef, access: Access) -> Network:
    """The switch that `uri` names on `host`. Raises Invalid for an unknown scheme."""
    return cast(Network, _driver("network", NETWORKS, uri, host, access))


def cloud(uri: str, access: Access) -> Cloud:
    """The cloud that `uri` names. Raises Invalid for an unknown scheme or a malformed URI."""
    # The key's host is empty: a cloud is reached from here.
    return cast(Cloud, _driver("cloud", CLOUDS, uri, HostRef("", uri), access))


def _module(noun: str, known: Mapping[str, str], uri: str) -> tuple[ModuleType, str]:
    scheme = urlsplit(uri).scheme
    if scheme not in known:
        raise Invalid(
            f"No {noun} driver for {uri!r}: its scheme should be one of {', '.join(sorted(known))}."
        )
    module, function = known[scheme].split(":")
    return importlib.import_module(module), function


def _capabilities(noun: str, known: Mapping[str, str], uri: str) -> object:
    module, function = _module(noun, known, uri)
    return getattr(module, f"{function}_capabilities")(uri)


def _driver(noun: str, known: Mapping[str, str], uri: str, host: HostRef, access: Access) -> Any:
    key = (noun, uri, host, access)
    with _lock:
        found = _objects.get(key)
        if found is None:
            module, function = _module(noun, known, uri)
            factory = getattr(module, function)
            found = _make(factory, noun, uri, host, access)
            _objects[key] = found
        return found


def _make(factory: Any, noun: str, uri: str, host: HostRef, access: Access) -> Any:
    if noun == "host":
        return factory(host, access)
    return factory(uri, access) if noun == "cloud" else factory(uri, host, access)


def _after_fork() -> None:
    """The child makes its own drivers."""
    global _lock
    _lock = threading.Lock()
    _objects.clear()


os.register_at_fork(after_in_child=_after_fork)
