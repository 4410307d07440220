"""A datacenter on one machine: hypervisor hosts in namespaces, joined by switches, reached over loopback.

`control` takes it up and down and causes accidents, `state` says what it is, `probe` looks at its networks
from outside, `leftovers` proves that it is gone. The rest is how: `layout` (names), `registry` (claims on
this machine), `links` (wires), `place` and `reaper` (namespaces with daemons in them), `host` and
`host_files`, `openvswitch`, `management` and `listener` (the loopback side), `processes`, `system`.
"""
