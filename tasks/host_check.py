"""Looking at a host before it is put into service. Nothing on the host is changed but a probe file."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from drivers import registry
from drivers.known_hosts import accept_host_key
from drivers.ssh import address_of
from drivers.ssh_files import management_uri
from tasks.environment import environment
from vdc.claims.hosts import HostChecked, domain_type_of
from vdc.errors import Refused, Unready, VdcError
from vdc.model import HostRef, StorageUse, VnetSpec
from vdc.requests import EnrollHostRequest


def complete_uri(uri: str) -> str:
    """An SSH URI with our key and our list of known hosts; others, and complete ones, as they are."""
    parts = urlsplit(uri)
    if not parts.scheme.endswith("+ssh") or parts.query:
        return uri
    address = address_of(uri)
    return management_uri(address.user, address.host, address.port, environment().settings.ssh_dir)


def complete_datastore_uri(uri: str) -> str:
    """Of a `local` datastore that does not say where images are kept: in VDC_HOME. Others as they are."""
    if urlsplit(uri).scheme != "local" or urlsplit(uri).query:
        return uri
    return f"{uri}?images={quote(str(environment().settings.home / 'images'))}"


def look_at_host(request: EnrollHostRequest, datastores: Sequence[tuple[str, str]]) -> HostChecked:
    """Access and host key, virtualisation, memory and CPU, uplinks, and each datastore readable and writable.

    Raises Refused, with the reason: also where the host does not answer, as nothing was done yet.
    """
    access = environment().access
    host = HostRef(request.name, request.uri, migration_address=request.migration_address)
    try:
        if urlsplit(request.uri).scheme.endswith("+ssh"):
            accept_host_key(request.name, address_of(request.uri), request.host_key, access)
        facts = registry.hypervisor(host, access).read_facts()
        domain_type_of(request, facts)
        for uri in request.networks:
            network = registry.network(uri, host, access)
            if network.capabilities.peers:
                # It is told of the others once it is one of them.
                network.read_peers_amiss([])
                continue
            # Whether the uplink is there does not depend on the network that is to use it.
            vlan_id = 1 if network.capabilities.vlan else None
            network.ensure_network(VnetSpec("", f"the uplink {uri}", uri, vlan_id, ""))
        storage = {name: _prove(uri, host) for name, uri in datastores}
    except Refused:
        raise
    except VdcError as error:
        raise Unready(f"Host {request.name} is not fit for service: {error}") from error
    return HostChecked(facts, storage)


def look_for_datastore(uri: str, host: HostRef) -> StorageUse:
    """See that an enrolled host can read and write the datastore. Raises Refused, with the reason."""
    try:
        return _prove(uri, host)
    except Refused:
        raise
    except VdcError as error:
        raise Unready(str(error)) from error


def _prove(uri: str, host: HostRef) -> StorageUse:
    store = registry.datastore(uri, host, environment().access)
    store.ensure_writable()
    return store.read_use()
