"""The bench of bills compares what is equal: ours and DuckDB's, on a small set of its events."""

from __future__ import annotations

from pathlib import Path

from deployments.bench.billing import duckdb, ours, write_events


def test_ours_and_duckdb_are_the_same_to_the_cent(tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    write_events(file, 6000, 60, seed=7)
    assert ours(file) == duckdb(file)
    assert len(ours(file)["totals"]) == 60
