"""What a test needs of the machine: skipped, with the missing thing named, where it has not got it."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test because of `what`; fail it where everything is required (`VDC_REQUIRE_ALL=1`)."""
    if os.environ.get("VDC_REQUIRE_ALL") == "1":
        pytest.fail(f"VDC_REQUIRE_ALL=1, but {what}", pytrace=False)
    pytest.skip(what)
