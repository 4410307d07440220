"""From events to levels: what each machine was after each event, and until when. Vectorised, on integers.

An event tells levels: of what state, size and owner a machine is from then on. What it does not tell stays as
it was. So an event that is told twice changes nothing, and the order in which events come does not matter:
they are put into one order here, by instant, and at the same instant by RANK.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vdc.event_kinds import BECOMES, ENDING, MAKING, OTHER, RANK, TRAFFIC
from vdc.tariff import STATES

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SIZES = ("vcpu", "memory_mib", "disk_mib", "snapshot_mib", "addresses")
NAMES = ("tenant_id", "machine", "provider", "hourly_price", "image")
ALWAYS_TOLD = ("machine", "hourly_price")
"""Of the other names an empty text tells nothing."""
UNTOLD = -1
"""A size that an event does not tell."""
FOREVER = int(np.iinfo(np.int64).max)


def since_1970(instants: pd.Series) -> Ints:
    """In microseconds."""
    return np.asarray(instants.dt.as_unit("us").array.asi8)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length. Of those in `texts` the numbers are positions in these, which are sorted.

    What a frame is, without what a frame costs: a bill of few machines is made of hundreds of small steps.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    texts: Mapping[str, pd.Index]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    def take(self, rows: Ints | Flags, **more: npt.NDArray[Any]) -> Table:
        """Some rows, by number or by flag; `more` are columns of these."""
        return Table({name: column[rows] for name, column in self.columns.items()} | more, self.texts)

    def position(self, name: str, text: str) -> int:
        """Of a text; -1 where no row has it."""
        return int(self.texts[name].get_indexer([text])[0])

    def frame(self) -> pd.DataFrame:
        """With categories for texts, and instants for `begin` and `end`."""
        made: dict[str, Any] = dict(self.columns)
        for name, texts in self.texts.items():
            if name in made:
                made[name] = pd.Categorical.from_codes(made[name], categories=texts)
        for name in ("begin", "end"):
            made[name] = as_instants(made[name])
        return pd.DataFrame(made)


def table(of: pd.DataFrame) -> Table:
    """A frame of Table.frame as a table again."""
    columns, texts = {}, {}
    for name in of:
        if isinstance(of[name].dtype, pd.CategoricalDtype):
            columns[str(name)], texts[str(name)] = _codes(of[name])
        elif name in ("begin", "end"):
            columns[str(name)] = since_1970(of[name])
        else:
            columns[str(name)] = of[name].to_numpy()
    return Table(columns, texts)


def levels(events: pd.DataFrame) -> Table:
    """A row an event, by machine and time.

    Columns: `vm_id` and NAMES (texts), SIZES, `state` (a number in STATES), `made` (something is on a host),
    `there` (it has its place), `begin`, `end` in microseconds since 1970 (FOREVER where nothing followed),
    `sent` (of traffic: bytes, else 0) and `payer` (of it: a tenant, as in `tenant_id`), `instances` (1).
    """
    codes = {name: _codes(events[name]) for name in ("vm_id", "kind", *NAMES)}
    sizes = {name: events[name].to_numpy(np.int64) for name in (*SIZES, "bytes")}
    at = since_1970(events["at"])
    order = _chronological(codes, sizes, at)
    at, vm, kind = at[order], codes["vm_id"][0][order], codes["kind"][0][order]
    kinds = [str(name) for name in codes["kind"][1]]

    row = np.arange(len(at))
    first = np.ones(len(at), bool)
    first[1:] = vm[1:] != vm[:-1]
    start = np.maximum.accumulate(np.where(first, row, 0))
    telling = ~_among(kinds, (TRAFFIC,))[kind]

    def last(told: Flags) -> Ints:
        """Row of the machine's last event of which it is true; one before `start` where none was."""
        return np.maximum.accumulate(np.where(told, row, -1))

    def filled(values: Ints, told: Flags, otherwise: Any) -> Ints:
        of = last(told)
        return np.where(of >= start, values[of], otherwise)

    made: dict[str, npt.NDArray[Any]] = {"vm_id": vm}
    for name in NAMES:
        values, nothing = codes[name][0][order], codes[name][1].get_indexer([""])[0]
        told = telling if name in ALWAYS_TOLD else telling & (values != nothing)
        made[name] = filled(values, told, values)
        if name == "tenant_id":
            # Who pays for traffic may be told with it: that is not who owns the machine from then on.
            made["payer"] = np.where(~telling & (values != nothing), values, made[name])
    for name in SIZES:
        values = sizes[name][order]
        made[name] = filled(values, telling & (values != UNTOLD), 0)
    becomes = np.array([STATES.index(BECOMES[k]) if k in BECOMES else UNTOLD for k in kinds], np.int64)[kind]
    made["state"] = filled(becomes, becomes != UNTOLD, STATES.index("stopped"))
    made["made"] = last(_among(kinds, MAKING)[kind]) >= start
    reserved = last(_among(kinds, ("held",))[kind]) >= start
    made["there"] = (made["made"] | reserved) & (last(_among(kinds, ENDING)[kind]) < start)
    made["begin"], made["end"] = at, np.full(len(at), FOREVER)
    made["end"][:-1] = np.where(first[1:], FOREVER, at[1:])
    made["sent"] = _sent(vm, at, telling, sizes["bytes"][order])
    made["instances"] = np.ones(len(at), np.int64)
    return Table(made, {name: codes[name][1] for name in ("vm_id", *NAMES)})


def _sent(vm: Ints, at: Ints, telling: Flags, sent: Ints) -> Ints:
    """Of traffic told several times of one machine and instant, the largest alone."""
    again = np.zeros(len(vm), bool)
    again[:-1] = (vm[1:] == vm[:-1]) & (at[1:] == at[:-1]) & ~telling[1:]
    return np.where(telling | again, 0, sent)


def _chronological(codes: dict[str, tuple[Ints, pd.Index]], sizes: dict[str, Ints], at: Ints) -> Ints:
    """The one order of events: by machine, instant, rank; where these are equal, by all that they tell."""
    vm = codes["vm_id"][0]
    rank = np.array([RANK.get(str(kind), OTHER) for kind in codes["kind"][1]], np.int64)[codes["kind"][0]]
    order = np.lexsort((rank, at, vm))
    same = np.zeros(len(order) + 1, bool)
    before, after = order[:-1], order[1:]
    same[1:-1] = (vm[before] == vm[after]) & (at[before] == at[after]) & (rank[before] == rank[after])
    tied = order[same[1:] | same[:-1]]
    if len(tied):
        # By every column: what is equal in all that counts may not depend on the order in which it came.
        keys = [codes[name][0] for name in ("tenant_id", "machine", "kind")] + list(sizes.values())
        keys += [codes[name][0] for name in ("provider", "hourly_price", "image")]
        by = [key[tied] for key in (vm, at, rank, *keys)]
        order[same[1:] | same[:-1]] = tied[np.lexsort(by[::-1])]
    return order


def as_instants(since_1970_us: Ints) -> pd.Series:
    """Microseconds as instants in UTC."""
    return pd.Series(since_1970_us.view("datetime64[us]")).dt.tz_localize("UTC")


def _codes(texts: pd.Series) -> tuple[Ints, pd.Index]:
    """Texts as numbers in their order, and the texts."""
    category = texts.astype("category").cat
    if not category.categories.is_monotonic_increasing:
        category = category.reorder_categories(category.categories.sort_values()).cat
    return category.codes.to_numpy(np.int64), category.categories


def _among(kinds: list[str], some: tuple[str, ...]) -> Flags:
    return np.array([kind in some for kind in kinds], bool)
