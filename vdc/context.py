"""Context: what machines are told about themselves, written by whoever may, on four levels.

Site, tenant, template and machine each have one; the more particular one wins, user by user, file by file,
field by field. Texts in it are Jinja2 templates over the machine's facts, rendered once, when the machine is
claimed (vdc/claims/context.py); a secret is named, `{{ secret('db') }}`, and comes in when the seed is built.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vdc.errors import Invalid
from vdc.model import ContextSpec, GuestFile, GuestUser
from vdc.rendering import SECRET, Renderer, is_template
from vdc.ssh_keys import check_ssh_key

MAX_BYTES = 64 * 1024
"""Of one level, as JSON."""
MAX_DEPTH = 12
MOST_PARTS = 5000
"""Texts, numbers, lists and maps of one level, counted as often as YAML's aliases repeat them."""

FIELDS = frozenset(
    {
        "apt",
        "bootcmd",
        "ca_certs",
        "final_message",
        "keyboard",
        "locale",
        "manage_etc_hosts",
        "mounts",
        "ntp",
        "package_reboot_if_required",
        "package_update",
        "package_upgrade",
        "runcmd",
        "snap",
        "swap",
        "timezone",
        "yum_repos",
    }
)
"""What of cloud-init's user-data may be set; the rest is the platform's, or has a field of its own here."""

_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_:=~/-]{0,199}")
_PATH = re.compile(r"/[!-~]{1,254}")
_OWNER = re.compile(r"[a-z_][a-z0-9_-]{0,31}(:[a-z_][a-z0-9_-]{0,31})?")
_MODE = re.compile(r"[0-7]{3,4}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ContextUser(_Part):
    """A login. `password_hash`: as in /etc/shadow; better a secret: `{{ secret('alice') }}`."""

    name: str
    ssh_keys: list[str] = []
    groups: list[str] = []
    sudo: bool = False
    shell: str = "/bin/bash"
    password_hash: str = ""


class ContextFile(_Part):
    path: str
    content: str
    permissions: str = "0644"
    owner: str = "root:root"


class Context(_Part):
    """One level. An entry of a list that is rendered to nothing is left out."""

    values: dict[str, str | bool | int | float] = {}
    """What texts, also of other levels, name as `values.NAME`; no templates themselves."""
    users: list[ContextUser] = []
    ssh_keys: list[str] = []
    packages: list[str] = []
    files: list[ContextFile] = []
    start_script: str = ""
    cloud_init: dict[str, Any] = {}
    """Fields of cloud-init's user-data, of those in `FIELDS`."""


@dataclass(frozen=True, slots=True)
class Level:
    """A level's content as JSON values. `secrets`: whose it may name: `site`, `tenant`, or empty: none."""

    what: str
    secrets: str
    content: Mapping[str, Any]


def read_context(values: object, what: str) -> dict[str, Any]:
    """A level's content, checked as far as that can be without a machine; what is not set is left out.

    Texts are tried on nothing, in a process of their own: one that does not end, or reads what it may not, is
    refused here. Raises Invalid.
    """
    if not _bounded(values):
        raise Invalid(f"The context of {what} is refused: it has more than {MOST_PARTS} parts.")
    content = _validated({} if values is None else values, what)
    kept = content.model_dump(mode="json", exclude_defaults=True)
    if len(json.dumps(kept)) > MAX_BYTES:
        raise Invalid(f"The context of {what} is refused: it is larger than {MAX_BYTES // 1024} KiB.")
    for path, text in _texts(kept):
        if any(mark in text for mark in SECRET):
            raise Invalid(f"The context of {what} is refused: {path} has characters that mark secrets.")
    _check(content, what, unrendered=True)
    texts = templates([Level(what, "", kept)])
    Renderer().render(texts, [{"values": content.values}], lenient=True)
    return kept


def _bounded(values: object) -> bool:
    """Whether it has no more than MOST_PARTS: a few lines with aliases can be a billion."""
    waiting, seen = [values], 0
    while waiting:
        part, seen = waiting.pop(), seen + 1
        if seen > MOST_PARTS:
            return False
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple, set)):
            waiting += part
    return True


def _validated(values: object, what: str) -> Context:
    try:
        return Context.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg'].lower()}" for e in error.errors()[:5]
        )
        raise Invalid(f"The context of {what} is refused: {wrong}.") from error


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Place and text of each string in a level."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence):
        for index, part in enumerate(value):
            yield from _texts(part, f"{path}.{index}")


def _replaced(value: Any, text_at: Callable[[str, str], str], path: str = "") -> Any:
    """The level with each string as `text_at(place, text)` says."""
    if isinstance(value, str):
        return text_at(path, value)
    if isinstance(value, Mapping):
        return {k: _replaced(v, text_at, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_replaced(part, text_at, f"{path}.{index}") for index, part in enumerate(value)]
    return value


def _key(level: Level, path: str) -> str:
    return f"{path} of {level.what}"


def templates(levels: Sequence[Level]) -> dict[str, str]:
    """Texts that have to be rendered, by what they are: `files.0.content of tenant acme`."""
    return {
        _key(level, path): text
        for level in levels
        for path, text in _texts({k: v for k, v in level.content.items() if k != "values"})
        if is_template(text)
    }


def values_of(levels: Sequence[Level]) -> dict[str, Any]:
    """The more particular level wins."""
    return {name: value for level in levels for name, value in level.content.get("values", {}).items()}


_MARKED = re.compile(f"{SECRET[0]}(.*?){SECRET[1]}", re.DOTALL)


def build(
    hostname: str,
    levels: Sequence[Level],
    rendered: Mapping[str, str],
    secrets: Mapping[str, Mapping[str, str]],
) -> ContextSpec:
    """What one machine is told. `secrets`: whose -> name -> id.

    Raises Invalid where what was rendered is not what belongs there, or names a secret that there is not.
    """
    users: dict[str, GuestUser] = {}
    files: dict[str, GuestFile] = {}
    keys: list[str] = []
    packages: list[str] = []
    start_script = ""
    cloud_init: dict[str, Any] = {}
    for level in levels:
        content = _rendered(level, rendered, secrets)
        for user in content.users:
            users[user.name] = GuestUser(
                user.name,
                tuple(key.strip() for key in user.ssh_keys if key.strip()),
                tuple(group for group in user.groups if group),
                user.sudo,
                user.shell,
                user.password_hash,
            )
        for file in content.files:
            files[file.path] = GuestFile(file.path, file.content, file.permissions, file.owner)
        keys += [key.strip() for key in content.ssh_keys if key.strip()]
        packages += [package for package in content.packages if package]
        start_script = content.start_script or start_script
        cloud_init |= content.cloud_init
    return ContextSpec(
        hostname,
        tuple(dict.fromkeys(keys)),
        start_script,
        tuple(users.values()),
        tuple(dict.fromkeys(packages)),
        tuple(files.values()),
        json.dumps(cloud_init, sort_keys=True) if cloud_init else "",
    )


def _rendered(level: Level, rendered: Mapping[str, str], secrets: Mapping[str, Mapping[str, str]]) -> Context:
    def text_at(path: str, text: str) -> str:
        key = _key(level, path)
        if key in rendered:
            return _marked(rendered[key], key, level, secrets)
        if any(mark in text for mark in SECRET):
            raise Invalid(f"The context is refused: {key} has characters that mark secrets.")
        return text

    content = _validated(_replaced(level.content, text_at), level.what)
    _check(content, level.what, unrendered=False)
    return content


def _marked(text: str, key: str, level: Level, secrets: Mapping[str, Mapping[str, str]]) -> str:
    """With each secret's id instead of its name: a level gets at those alone that it may name."""
    known = secrets.get(level.secrets, {})

    def mark(found: re.Match[str]) -> str:
        name = found[1]
        if not level.secrets:
            raise Invalid(f"The context is refused: {key} names a secret, and is another tenant's.")
        if name not in known:
            whose = "the site" if level.secrets == "site" else "its tenant"
            raise Invalid(
                f"The context is refused: {key} names a secret {name[:63]!r} that {whose} has not. Set it by "
                "`vdc secret set`."
            )
        return f"{SECRET[0]}{known[name]}{SECRET[1]}"

    parts = _MARKED.split(text)
    if any(mark in part for part in parts[::2] for mark in SECRET):
        raise Invalid(f"The context is refused: {key} has characters that mark secrets.")
    return _MARKED.sub(mark, text)


def _check(content: Context, what: str, *, unrendered: bool) -> None:
    """Raise Invalid where a value can never be right. `unrendered`: what is a template is not looked at."""

    def wrong(value: str, pattern: re.Pattern[str]) -> bool:
        return not (unrendered and is_template(value)) and not pattern.fullmatch(value)

    def refuse(said: str) -> Invalid:
        return Invalid(f"The context of {what} is refused: {said}.")

    for name in content.values:
        if wrong(name, _NAME):
            raise refuse(f"values.{name[:63]}: use lower-case letters, digits and _ for its name")
    for user in content.users:
        if wrong(user.name, _LOGIN):
            raise refuse(f"{user.name[:63]!r} is no name of a login")
        for group in filter(None, user.groups):
            if wrong(group, _LOGIN):
                raise refuse(f"{group[:63]!r} is no name of a group")
        if wrong(user.shell, _PATH):
            raise refuse(f"the shell of {user.name} is no path")
        # What it is may be a secret, so that it is not repeated.
        if not user.password_hash.isascii() and not any(mark in user.password_hash for mark in SECRET):
            raise refuse(f"the password_hash of {user.name} is none")
    for key in (*content.ssh_keys, *(key for user in content.users for key in user.ssh_keys)):
        if key.strip() and not (unrendered and is_template(key)):
            check_ssh_key(key)
            if not key.strip().isprintable():
                raise refuse("an SSH key has characters that belong into none, or is to be a secret")
    for package in filter(None, content.packages):
        if wrong(package, _PACKAGE):
            raise refuse(f"{package[:63]!r} is no name of a package")
    for file in content.files:
        if wrong(file.path, _PATH) or "/../" in f"{file.path}/":
            raise refuse(f"{file.path[:80]!r} is no absolute path of a file")
        if wrong(file.permissions, _MODE):
            raise refuse(
                f"permissions {file.permissions[:20]!r} of {file.path}: give octal digits, in quotes"
            )
        if wrong(file.owner, _OWNER):
            raise refuse(f"owner {file.owner[:63]!r} of {file.path}: write it like root:root")
    if unknown := sorted(set(content.cloud_init) - FIELDS):
        raise refuse(f"cloud_init has {', '.join(unknown)[:120]}. It may have: {', '.join(sorted(FIELDS))}")
    if not _plain(content.cloud_init):
        raise refuse("cloud_init has something in it that is no text, number, list or map of these")


def _plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON can say it, not too deep."""
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(part, depth + 1) for key, part in value.items())
    if isinstance(value, list):
        return all(_plain(part, depth + 1) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, bool, int))
