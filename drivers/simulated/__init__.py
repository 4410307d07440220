"""A datacenter in one SQLite file: hypervisor, datastore and network behind drivers/contract.py.

Several processes see the same datacenter, and a killed process leaves exactly what it had done. URIs:
`simulated:///path/dc.db?host=h1`, `...?datastore=shared`, `...?switch=trunk0`. `Simulation` makes such a
file, injects latency and faults, and looks at it from outside.
"""

from drivers.simulated.control import (
    Held,
    LoggedCall,
    Simulation,
    Store,
    Switch,
    host_facts,
)
from drivers.simulated.datastore import datastore, datastore_capabilities
from drivers.simulated.hypervisor import hypervisor, hypervisor_capabilities
from drivers.simulated.network import network, network_capabilities

__all__ = [
    "Held",
    "LoggedCall",
    "Simulation",
    "Store",
    "Switch",
    "datastore",
    "datastore_capabilities",
    "host_facts",
    "hypervisor",
    "hypervisor_capabilities",
    "network",
    "network_capabilities",
]
