"""What a machine's seed is made of: its context, with the secrets that belong there."""

from __future__ import annotations

from tasks.environment import environment
from vdc import secrets
from vdc.inventory import read_session
from vdc.model import ContextSpec, VmSpec


def context_of(spec: VmSpec) -> ContextSpec:
    """For the seed alone: what it returns is to be kept nowhere. Raises DriverFailure, Unready."""
    ids = secrets.ids_in(spec.context)
    if not ids:
        return spec.context
    with read_session(environment().url) as session:
        sealed = secrets.read_sealed(session, ids)
    return secrets.revealed(spec.context, sealed, secrets.key(environment().settings.secrets_key))
