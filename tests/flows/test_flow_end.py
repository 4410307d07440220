"""The end of a flow does not wait for Prefect's heartbeat thread, which sleeps in whole seconds."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from vdc.settings import Settings

pytestmark = [pytest.mark.prefect, pytest.mark.alone]


class _Engine:
    """What Prefect's heartbeats want of a flow run's engine."""

    heartbeat_seconds = 30
    flow_run = None
    logger = logging.getLogger("engine")

    def __init__(self) -> None:
        self.beaten = threading.Event()

    def _build_heartbeat_event_template(self) -> tuple[None, None]:
        return None, None

    def _emit_flow_run_heartbeat(self, *_: object) -> None:
        self.beaten.set()


def test_a_flow_ends_at_once_and_still_beats(prefect_client: Settings) -> None:
    from prefect import flow_engine

    import flows.settings  # noqa: F401 (what it changes is what is tested)

    engine = _Engine()
    with flow_engine._send_heartbeats(engine):
        assert engine.beaten.wait(10)
        begun = time.monotonic()
    assert time.monotonic() - begun < 0.5
