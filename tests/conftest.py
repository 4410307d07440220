"""Fixtures that several kinds of tests share. Each costs nothing until a test asks for it."""

from tests.lab_fixture import lab
from tests.postgres import inventory_url, postgres_server, postgres_url

__all__ = ["inventory_url", "lab", "postgres_server", "postgres_url"]
