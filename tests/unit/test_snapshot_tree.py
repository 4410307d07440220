"""Snapshots as `vdc vm snapshot list` draws them."""

from __future__ import annotations

from interfaces.cli.snapshot import tree


def drawn(*of: tuple[str, str | None]) -> list[str]:
    rows = [{"id": label, "label": label, "parent_id": parent} for label, parent in of]
    return [row["tree"] for row in tree(rows)]


def test_each_stands_below_the_one_it_was_made_after() -> None:
    rows = (("a", None), ("b", "a"), ("c", "b"), ("d", "a"), ("e", "d"), ("f", None))
    assert drawn(*rows) == [
        "a",
        "├─ b",
        "│  └─ c",
        "└─ d",
        "   └─ e",
        "f",
    ]


def test_one_whose_parent_is_not_there_is_drawn_too() -> None:
    assert drawn(("b", "gone"), ("c", "b")) == ["b", "└─ c"]


def test_none_makes_no_tree() -> None:
    assert drawn() == []
