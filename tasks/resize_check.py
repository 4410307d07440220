"""Looking at a machine whose size is to be changed. Without Prefect: a plan looks too."""

from __future__ import annotations

from drivers import registry
from tasks.domains import domain_spec
from tasks.environment import environment
from vdc.errors import Refused, Unready, VdcError
from vdc.model import ShapeSeen, VmSpec


def look_at_shape(spec: VmSpec) -> ShapeSeen:
    """What it has, and how far that may be changed while it runs. Raises Refused, also without its host."""
    try:
        return registry.hypervisor(spec.host, environment().access).read_shape(domain_spec(spec))
    except Refused:
        raise
    except VdcError as error:
        raise Unready(f"Machine {spec.name} cannot be looked at: {error}") from error
