"""What a public SSH key looks like."""

from __future__ import annotations

from base64 import b64decode

from vdc.errors import Invalid

TYPES = ("ssh-ed25519 ", "ssh-rsa ", "ecdsa-sha2-", "sk-ssh-ed25519", "sk-ecdsa-sha2-")


def check_ssh_key(key: str) -> None:
    """Raises Invalid where `key` is no public key in one line."""
    parts = key.split()
    if not key.startswith(TYPES) or len(parts) < 2 or "\n" in key.strip():
        raise Invalid(f"SSH key {key[:40]!r} is none: give the line of a .pub file.")
    try:
        blob = b64decode(parts[1], validate=True)
    except ValueError as error:
        raise Invalid(f"SSH key {key[:40]!r} is damaged: {error}.") from error
    length = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + length] != parts[0].encode():
        raise Invalid(f"SSH key {key[:40]!r} is damaged: it does not hold a key of type {parts[0]}.")
