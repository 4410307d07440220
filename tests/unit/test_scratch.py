"""Temporary directories: those in use stay, those of dead processes go."""

from __future__ import annotations

from pathlib import Path

from tests.flows.site import settings


def test_one_in_use_stays_and_one_that_was_left_goes(tmp_path: Path) -> None:
    with settings(home=tmp_path):
        from tasks.scratch import PREFIX, scratch

        left = tmp_path / "tmp" / f"{PREFIX}left"
        left.mkdir(parents=True)
        (left / "download").write_bytes(b"x")
        theirs = tmp_path / "tmp" / "import-of-somebody-else"
        theirs.mkdir()
        with scratch() as first:
            (first / "download").write_bytes(b"x")
            with scratch() as second:
                assert {path.name for path in (tmp_path / "tmp").iterdir()} == {
                    first.name,
                    second.name,
                    theirs.name,
                }
            assert (first / "download").exists()
            assert not second.exists()
        assert list((tmp_path / "tmp").iterdir()) == [theirs]
