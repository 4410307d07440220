"""Fixtures that several kinds of tests share. Each costs nothing until a test asks for it."""

from tests.ec2_fixture import ec2, ec2_endpoint
from tests.lab_fixture import lab
from tests.postgres import inventory_url, postgres_server, postgres_url
from tests.prefect_fixture import prefect_client, prefect_server

__all__ = [
    "ec2",
    "ec2_endpoint",
    "inventory_url",
    "lab",
    "postgres_server",
    "postgres_url",
    "prefect_client",
    "prefect_server",
]
