"""`vdc vm console` and `vdc vm vnc`: to sit in front of a machine."""

from __future__ import annotations

import contextlib

import click

from interfaces.cli.output import json_option, note, print_json, print_line

tenant_option = click.option("--tenant", default="", help="Whose machine, where the name is not unique.")


@click.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Throw out who is attached already.")
@tenant_option
def console(name: str, force: bool, tenant: str) -> None:
    """Attach this terminal to the serial console of a machine; Ctrl-] ends it."""
    from drivers import registry
    from interfaces.cli import terminal
    from interfaces.cli.session import reading
    from tasks.environment import environment
    from vdc.claims.power import machine_to_see
    from vdc.errors import Invalid

    if not terminal.is_terminal():
        raise Invalid("A console needs a terminal: neither input nor output may be redirected.")
    with reading() as session:
        spec = machine_to_see(session, name, tenant, "console")
    hypervisor = registry.hypervisor(spec.host, environment().access)
    note(f"Attaching to the console of {spec.name} on {spec.host.name}. Ctrl-] ends it.")
    why = terminal.attach(lambda output, end: hypervisor.open_console(spec.domain, output, end, force=force))
    note(f"\nThe console of {spec.name} ended: {why}." if why else f"\nDetached from {spec.name}.")


@click.command()
@click.argument("name")
@click.option("--tunnel", is_flag=True, help="Lead a port of this machine's loopback there until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Which port; none: any that is free.")
@tenant_option
@json_option
def vnc(name: str, tunnel: bool, port: int, tenant: str, as_json: bool) -> None:
    """Say where the screen of a machine listens, as seen from its host."""
    from drivers import registry
    from interfaces.cli.session import reading
    from tasks.environment import environment
    from vdc.claims.power import machine_to_see

    with reading() as session:
        spec = machine_to_see(session, name, tenant, "vnc")
    access = environment().access
    seen = registry.hypervisor(spec.host, access).read_vnc(spec.domain)
    told = {"name": spec.name, "host": spec.host.name, "address": seen.address, "port": seen.port}
    if not tunnel:
        if as_json:
            print_json(told)
            return
        print_line(f"{spec.name}: {seen.address}:{seen.port} on host {spec.host.name}")
        note(f"From here: vdc vm vnc {spec.name} --tunnel")
        return
    from drivers import ssh
    from drivers.tunnel import Tunnel
    from interfaces.cli import terminal

    connection = ssh.connection(spec.host, access)
    connection.check()
    leading = Tunnel(connection, seen.address, seen.port, local_port=port)
    with contextlib.closing(leading), contextlib.suppress(KeyboardInterrupt), terminal.ended_in_order():
        if as_json:
            print_json(told | {"local_port": leading.local_port})
        else:
            print_line(f"vnc://127.0.0.1:{leading.local_port} is the screen of {spec.name}, until Ctrl-C.")
        click.get_text_stream("stdout").flush()
        leading.serve()
    note(f"Closed. {leading.error}".strip())


COMMANDS = [console, vnc]
