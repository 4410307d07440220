"""What each guest image is made of. Both boot the same way, and differ in what they serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.guests.kernel import ROUTING_MODULES

HERE = Path(__file__).parent

_BOOT = {
    "init": "init",
    "shutdown": "sbin/shutdown",
    "configure": "usr/lib/tiny/configure",
    "find-seed": "usr/lib/tiny/find-seed",
    "addresses": "usr/lib/tiny/addresses",
    "dhcp": "usr/lib/tiny/dhcp",
    "flatten.awk": "usr/lib/tiny/flatten.awk",
    "hotplug": "usr/lib/tiny/hotplug",
    "start-script": "usr/lib/tiny/start-script",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`scripts`: file beside this one -> its place in the guest. `installed`: packages of the machine that
    builds, whose `programs` are copied; `fetched`: packages that are unpacked for it, and not installed."""

    name: str
    scripts: Mapping[str, str]
    kernels: tuple[str, ...]
    installed: tuple[str, ...]
    programs: tuple[str, ...]
    fetched: tuple[str, ...] = ()
    fetched_programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    """Beside those that every guest has; the kernel's must be `debian` then."""


AGENT = "/usr/sbin/qemu-ga"

TINY = Recipe(
    name="tiny",
    scripts={
        **{f"tiny/{script}": place for script, place in _BOOT.items()},
        "tiny/index.cgi": "var/www/cgi-bin/index.cgi",
        "tiny/services": "usr/lib/tiny/services",
    },
    kernels=("debian", "tiny"),
    installed=("dropbear-bin", "qemu-guest-agent"),
    programs=("/usr/sbin/dropbear", AGENT),
)

ROUTER = Recipe(
    name="router",
    scripts={
        **{f"tiny/{script}": place for script, place in _BOOT.items()},
        "router/services": "usr/lib/tiny/services",
        "router/apply": "usr/lib/router/apply",
    },
    kernels=("debian",),
    installed=("qemu-guest-agent",),
    programs=(AGENT,),
    # A time server, or a name server, is not to be started on the machine that builds. The others are what
    # they are linked with.
    fetched=(
        "chrony",
        "dnsmasq-base",
        "nftables",
        *("libbsd0", "libcap2", "libdbus-1-3", "libedit2", "libffi8", "libgcrypt20", "libgmp10"),
        *("libgnutls30", "libgpg-error0", "libhogweed6", "libidn2-0", "libjansson4", "liblz4-1", "liblzma5"),
        *("libmd0", "libmnl0", "libnetfilter-conntrack3", "libnettle8", "libnfnetlink0", "libnftables1"),
        *("libnftnl11", "libp11-kit0", "libseccomp2", "libsystemd0", "libtasn1-6", "libtinfo6"),
        *("libunistring2", "libxtables12", "libzstd1"),
    ),
    fetched_programs=("/usr/sbin/chronyd", "/usr/sbin/dnsmasq", "/usr/sbin/nft"),
    modules=ROUTING_MODULES,
)

RECIPES = {recipe.name: recipe for recipe in (TINY, ROUTER)}
