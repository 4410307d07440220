"""A datacenter on this machine, from nothing to a bill: what `make demo` shows and takes down again."""
