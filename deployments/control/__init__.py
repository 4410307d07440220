"""The control plane: a Prefect server on this machine, what it needs, and how our processes talk to it."""
