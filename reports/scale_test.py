"""A scale test as frames, figures and words.

Frames (instants in seconds since 1970, durations in seconds):

- `phases`: a row for each machine, round and phase: `repetition side action vm_id machine host phase attempt
  begun ended duration_s error`. Beside the steps of the drivers there are the phases around them, so that a
  machine's rows of a round follow each other without a gap: `open flow run`, `claim` (of the whole batch at
  once), `queue`, `between steps` (retries, and what Prefect takes), `wait for record`, `record`.
- `rounds`: one side making or removing its machines once; `repetition` 0 warmed up and counts nowhere.
- `samples`: what each source used at an instant; CPU seconds are counters.
- `summary`: `figure side unit median min max n`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

DRIVERS = (
    "ensure network",
    "ensure disk",
    "ensure seed",
    "define",
    "start",
    "remove domain",
    "remove ports",
    "measure persistent image",
    "remove files",
)
"""Phases in which a driver is at work; in all others it is us."""
AROUND = ("open flow run", "claim", "queue", "between steps", "wait for record", "record")
ORDER = (*AROUND[:3], *DRIVERS[:5], *DRIVERS[5:], *AROUND[3:])
HYPERVISOR = ("define", "start", "remove domain")
PERCENTILES = (50, 90, 99)
TARGET = 1.15
"""What ours may take at most, in units of the floor."""
BUSY = 0.85
"""From this share on, something is called used up."""

_PHASES = ("repetition", "side", "action", "vm_id", "machine", "host", "phase", "attempt", "begun", "ended",
           "duration_s", "error")  # fmt: skip
_ROUNDS = ("repetition", "side", "action", "begun", "ended", "machines", "failed", "client_cpu_s",
           "server_cpu_s", "quiet", "error")  # fmt: skip
_SAMPLES = ("at", "kind", "name", "cpu_busy_s", "cpu_total_s", "memory_mib", "load_1m", "machines",
            "size_mib", "error")  # fmt: skip

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Frames:
    phases: pd.DataFrame
    rounds: pd.DataFrame
    samples: pd.DataFrame


def frames(rounds: Rows, steps: Rows, samples: Rows) -> Frames:
    """From what was measured. `steps` are those of drivers, `record`, and `claim` without a machine."""
    of_rounds = pd.DataFrame(rounds, columns=list(_ROUNDS)).astype({"server_cpu_s": float})
    by_round: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for step in steps:
        by_round.setdefault((step["repetition"], step["side"], step["action"]), []).append(step)
    made: list[dict[str, Any]] = []
    for row in rounds:
        key = (row["repetition"], row["side"], row["action"])
        made += _phases_of_round(row["begun"], by_round.get(key, []))
    phases = pd.DataFrame(made, columns=list(_PHASES))
    phases["duration_s"] = phases["ended"] - phases["begun"]
    of_samples = pd.DataFrame(samples, columns=list(_SAMPLES))
    numbers = ["cpu_busy_s", "cpu_total_s", "memory_mib", "load_1m", "machines", "size_mib"]
    of_samples[numbers] = of_samples[numbers].astype(float)
    return Frames(phases, of_rounds, of_samples)


def _phases_of_round(begun: float, steps: Rows) -> list[dict[str, Any]]:
    claims = [step for step in steps if not step["vm_id"]]
    machines: dict[str, list[Mapping[str, Any]]] = {}
    for step in steps:
        if step["vm_id"]:
            machines.setdefault(step["vm_id"], []).append(step)
    rows = []
    for own in machines.values():
        rows += _phases_of_machine(begun, claims[:1], sorted(own, key=lambda s: float(s["begun"])))
    return rows


def _phases_of_machine(begun: float, claims: Rows, own: Rows) -> list[dict[str, Any]]:
    """Its steps with what lies between them, each from where the last one ended."""
    about = {key: own[0][key] for key in ("repetition", "side", "action", "vm_id", "machine", "host")}
    rows: list[dict[str, Any]] = []
    at, seen = begun, dict[str, int]()

    def put(phase: str, start: float, end: float, error: str = "") -> None:
        seen[phase] = seen.get(phase, 0) + 1
        rows.append(
            about | {"phase": phase, "attempt": seen[phase], "begun": start, "ended": end, "error": error}
        )

    waiting = "open flow run"
    for step in (*claims, *own):
        start = max(float(step["begun"]), at)
        if start > at:
            put("wait for record" if step["phase"] == "record" else waiting, at, start)
        at = max(float(step["ended"]), start)
        put(step["phase"], start, at, step["error"])
        waiting = "queue" if step in claims else "between steps"
    if not claims:
        rows[0]["phase"] = "queue" if rows[0]["phase"] == "open flow run" else rows[0]["phase"]
    return rows


def counted(frames_: Frames) -> Frames:
    """Without the warm-up, and without what a side did in a repetition in which machines of it failed."""
    rounds = frames_.rounds
    spoilt = rounds[rounds["failed"] > 0]
    out = set(zip(spoilt["repetition"], spoilt["side"], strict=True))

    def left(frame: pd.DataFrame) -> pd.DataFrame:
        keys = zip(frame["repetition"], frame["side"], strict=True)
        return frame[[key[0] > 0 and key not in out for key in keys]]

    return Frames(left(frames_.phases), left(rounds), frames_.samples)


def walls(frames_: Frames) -> pd.DataFrame:
    """Wall time in seconds: a row a repetition, a column for each (side, action)."""
    rounds = counted(frames_).rounds
    timed = rounds.assign(wall_s=rounds["ended"] - rounds["begun"])
    return timed.pivot_table(index="repetition", columns=["side", "action"], values="wall_s")


def ratios(frames_: Frames) -> pd.DataFrame:
    """Ours in units of the floor: `deploy terminate both`, a row for each repetition that has both sides."""
    wall = walls(frames_)
    sides = set(wall.columns.get_level_values(0))
    if not {"ours", "floor"} <= sides:
        return pd.DataFrame(columns=["deploy", "terminate", "both"], dtype=float)
    made = pd.DataFrame({action: wall["ours"][action] / wall["floor"][action] for action in _both(wall)})
    made["both"] = wall["ours"].sum(axis=1, skipna=False) / wall["floor"].sum(axis=1, skipna=False)
    return made.dropna()


def _both(wall: pd.DataFrame) -> list[str]:
    return [a for a in ("deploy", "terminate") if ("ours", a) in wall and ("floor", a) in wall]


def percentiles(frames_: Frames) -> pd.DataFrame:
    """p50, p90 and p99 of each phase's duration in seconds: a row a (side, action, phase), in order of time.

    What a machine took in all is the phase `whole`: from the request to what is written down.
    """
    used = counted(frames_).phases
    if used.empty:
        return pd.DataFrame(columns=["side", "action", "phase", *(f"p{p}" for p in PERCENTILES), "n"])
    keys = ["repetition", "side", "action", "vm_id"]
    grouped = used.groupby(keys)
    whole = (grouped["ended"].max() - grouped["begun"].min()).rename("duration_s").reset_index()
    both = pd.concat([used, whole.assign(phase="whole")])
    # A step that was tried again counts with all that it took.
    summed = both.groupby([*keys, "phase"])["duration_s"].sum().reset_index()
    groups = summed.groupby(["side", "action", "phase"])["duration_s"]
    table = pd.DataFrame({f"p{p}": groups.quantile(p / 100) for p in PERCENTILES})
    table["n"] = groups.size()
    table = table.reset_index()
    order = {phase: n for n, phase in enumerate((*ORDER, "whole"))}
    table["order"] = table["phase"].map(order)
    return table.sort_values(["side", "action", "order"]).drop(columns="order").reset_index(drop=True)


def shares(frames_: Frames, action: str, slots: int, side: str = "ours") -> dict[str, float]:
    """Of the time that all slots have (wall time x machines at work at once), what each driver's step had.

    What is missing to 1 is ours: claims, records, Prefect, and slots that stand empty at the end.
    """
    rounds, phases = (
        frame[(frame["side"] == side) & (frame["action"] == action)]
        for frame in (counted(frames_).rounds, counted(frames_).phases)
    )
    wall_s = float((rounds["ended"] - rounds["begun"]).sum())
    if not wall_s:
        return {}
    driven = phases[phases["phase"].isin(DRIVERS)].groupby("phase")["duration_s"].sum()
    return {phase: float(driven[phase]) / (wall_s * slots) for phase in DRIVERS if phase in driven}


def busy(frames_: Frames, kind: str, side: str, action: str) -> dict[str, float]:
    """CPU use by name during the counted rounds of a side.

    Of hosts and machines the share of all their CPUs (0 to 1), of processes how many CPUs.
    """
    found = {}
    samples = frames_.samples[frames_.samples["kind"] == kind]
    for name, own in samples.dropna(subset=["cpu_busy_s"]).groupby("name"):
        used = of = 0.0
        for _, row in counted(frames_).rounds.iterrows():
            if (row["side"], row["action"]) != (side, action):
                continue
            ends = [row["begun"], row["ended"]]
            at = own["at"].to_numpy()
            lo, hi = np.interp(ends, at, own["cpu_busy_s"].to_numpy())
            used += hi - lo
            if own["cpu_total_s"].notna().all():
                total = np.interp(ends, at, own["cpu_total_s"].to_numpy())
                of += total[1] - total[0]
            else:
                of += ends[1] - ends[0]
        if of:
            found[str(name)] = float(used / of)
    return found


def summary(frames_: Frames) -> pd.DataFrame:
    """The figures: medians over repetitions, with their range."""
    rows: list[dict[str, Any]] = []

    def add(figure: str, side: str, unit: str, values: pd.Series[Any]) -> None:
        values = values.dropna()
        if not values.empty:
            low, high = float(values.min()), float(values.max())
            rows.append(
                {"figure": figure, "side": side, "unit": unit, "median": float(values.median()), "min": low,
                 "max": high, "n": len(values)}
            )  # fmt: skip

    wall, ratio = walls(frames_), ratios(frames_)
    count = int(frames_.rounds["machines"].max()) if not frames_.rounds.empty else 0
    for side in ("ours", "floor"):
        if side in wall.columns.get_level_values(0):
            add("deploy and terminate", side, "s", wall[side].sum(axis=1, skipna=False))
            for action in wall[side].columns:
                add(action, side, "s", wall[side][action])
                add(action, side, "machines/s", count / wall[side][action])
    for column, name in (("both", "deploy and terminate"), ("deploy", "deploy"), ("terminate", "terminate")):
        if column in ratio:
            add(name, "ours / floor", "ratio", ratio[column])
    used = counted(frames_).rounds
    for side in ("ours", "floor"):
        per = used[used["side"] == side].groupby("repetition")
        add("CPU of this process", side, "ms a machine", 1000 * per["client_cpu_s"].sum() / count)
        server = per["server_cpu_s"].sum(min_count=1)
        add("CPU of the Prefect server", side, "ms a machine", 1000 * server / count)
    return pd.DataFrame(rows, columns=["figure", "side", "unit", "median", "min", "max", "n"])


def median_of(table: pd.DataFrame, figure: str, side: str, unit: str) -> float | None:
    found = table[(table["figure"] == figure) & (table["side"] == side) & (table["unit"] == unit)]
    return None if found.empty else float(found["median"].iloc[0])


def words(frames_: Frames, about: Mapping[str, Any]) -> list[str]:
    """What it means, in sentences: each figure is computed from the frames."""
    table = summary(frames_)
    request, said = about["request"], list[str]()
    count = request["count"]
    hosts = len(about["hosts"])
    slots = hosts * about["per_host_concurrency"]
    rate, back = (median_of(table, a, "ours", "machines/s") for a in ("deploy", "terminate"))
    if rate and back:
        said.append(
            f"{count} machines were made in {count / rate:.2f} s and removed in {count / back:.2f} s "
            f"(medians): {rate:.1f} and {back:.1f} machines a second, on {hosts} host{'s' * (hosts != 1)} "
            f"with {about['per_host_concurrency']} at a time on each."
        )
    said += _against_the_floor(frames_, table, about)
    for action, doing in (("deploy", "Making"), ("terminate", "Removing")):
        said += _where_time_goes(frames_, action, doing, slots)
    said += _control_plane(frames_, table)
    said += _shared_machine(frames_)
    said += _doubts(frames_, about)
    return said


def _against_the_floor(frames_: Frames, table: pd.DataFrame, about: Mapping[str, Any]) -> list[str]:
    ratio = median_of(table, "deploy and terminate", "ours / floor", "ratio")
    if ratio is None:
        why = about["no_floor"] or "no repetition was whole on both sides"
        return [f"There is no floor to compare with: {why}."]
    verdict = "within" if ratio <= TARGET else "above"
    share = max(0.0, 1 - 1 / ratio)
    return [
        f"Against the bare libvirt loop, which made the same machines in turn with us, we took {ratio:.2f} "
        f"times as long ({verdict} the target of {TARGET}): {share:.0%} of our wall time is what the "
        "datacenter adds, the rest is hypervisor, disk and SSH."
    ]


def _where_time_goes(frames_: Frames, action: str, doing: str, slots: int) -> list[str]:
    share = shares(frames_, action, slots)
    if not share:
        return []
    at_work = sum(share.values())
    hypervisor = sum(share.get(phase, 0.0) for phase in HYPERVISOR)
    most = max(share, key=lambda phase: share[phase])
    text = (
        f"{doing}: the {slots} places at which a machine is worked on were {at_work:.0%} in use by drivers, "
        f"{hypervisor:.0%} by the hypervisor itself; the longest step is '{most}' with {share[most]:.0%}. "
    )
    hosts = busy(frames_, "host", "ours", action)
    hottest = max(hosts.values(), default=None)
    if hottest is not None and hottest >= BUSY:
        text += f"The hosts' CPUs bound it: {hottest:.0%} in use."
    elif at_work >= BUSY:
        text += "What bounds it is how many machines are worked on at a time on each host"
        text += f"; the hosts' CPUs were {hottest:.0%} in use." if hottest is not None else "."
    else:
        text += f"Neither hosts nor their places were used up: {1 - at_work:.0%} is waiting on us"
        text += f"; the hosts' CPUs were {hottest:.0%} in use." if hottest is not None else "."
    return [text]


def _control_plane(frames_: Frames, table: pd.DataFrame) -> list[str]:
    client, floor = (median_of(table, "CPU of this process", s, "ms a machine") for s in ("ours", "floor"))
    server = median_of(table, "CPU of the Prefect server", "ours", "ms a machine")
    if client is None:
        return []
    text = f"A machine's whole life cost this process {client:.0f} ms of CPU"
    if floor is not None:
        text += f" (the bare loop {floor:.0f} ms)"
    text += f" and the Prefect server {server:.0f} ms" if server is not None else ""
    size = frames_.samples[frames_.samples["kind"] == "database"]["size_mib"].dropna()
    if len(size) > 1:
        text += f"; the inventory grew from {size.iloc[0]:.1f} to {size.iloc[-1]:.1f} MiB"
    return [text + "."]


def _shared_machine(frames_: Frames) -> list[str]:
    """Hosts that count the same CPU time since boot as this machine are this machine."""
    last = frames_.samples.dropna(subset=["cpu_total_s"]).groupby(["kind", "name"])["cpu_total_s"].last()
    if "machine" not in last.index.get_level_values(0) or "host" not in last.index.get_level_values(0):
        return []
    here = float(last["machine"].iloc[0])
    same = [str(name) for name, total_s in last["host"].items() if abs(total_s - here) < 0.01 * here]
    if not same:
        return []
    return [
        f"{' and '.join(same)} and the control plane are the same machine: every millisecond of CPU "
        "that we use is taken from the hypervisor, which it is not where hosts are machines of their own."
    ]


def _doubts(frames_: Frames, about: Mapping[str, Any]) -> list[str]:
    said = []
    loads = frames_.samples[frames_.samples["kind"] == "machine"]["load_1m"]
    if len(loads) and loads.iloc[0] > about["cpus"] / 2:
        said.append(
            f"This machine was not idle when the test began: a load of {loads.iloc[0]:.1f} on "
            f"{about['cpus']} CPUs. What else ran has disturbed the figures."
        )
    failed = frames_.rounds[frames_.rounds["failed"] > 0]
    for _, row in failed.iterrows():
        said.append(
            f"Repetition {row['repetition']}, {row['side']}: {row['failed']} of {row['machines']} machines "
            f"failed to {row['action']}; it counts in no figure. {row['error']}"
        )
    noisy = int((~counted(frames_).rounds["quiet"].astype(bool)).sum())
    if noisy:
        said.append(f"The Prefect server did not come to rest after {noisy} rounds: the next are disturbed.")
    unseen = frames_.samples[frames_.samples["error"] != ""]
    for name, own in unseen.groupby("name"):
        said.append(f"{len(own)} samples of {name} are missing: {own['error'].iloc[0]}")
    return said
