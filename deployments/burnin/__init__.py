"""Burn-in: random operations by several users against the installed platform, and a look at what is left.

Import after Prefect is configured (interfaces/cli/engine.py): the real flows are run, without a worker.
"""
