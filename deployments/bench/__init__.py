"""`make bench`: what the datacenter costs beside the hypervisor, measured. docs/benchmarks.md explains it."""
