"""The gate before a flow: Prefect configured for our server, and the server there."""

from __future__ import annotations

import click

from vdc.settings import Settings, load


def use_prefect(settings: Settings | None = None) -> Settings:
    """Call before importing `flows`. Raises Unready, with what to type, where no server answers."""
    from deployments.control.health import require_server
    from deployments.control.prefect_env import apply

    settings = settings or load()
    require_server(settings)
    context = click.get_current_context(silent=True)
    root = context.find_root().obj if context else None
    apply(settings, verbose=bool(root and root.get("verbose")))
    return settings
