"""Passwords: kept as argon2id hashes (RFC 9106, argon2-cffi with its own parameters), nothing else."""

from __future__ import annotations

from vdc.errors import Invalid

MIN_LENGTH = 10
_NOBODYS = "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""What is compared with where there is nothing, so that it takes as long."""


def hash_password(password: str) -> str:
    """Raises Invalid for a password that is too short to be one."""
    from argon2 import PasswordHasher

    if len(password) < MIN_LENGTH:
        raise Invalid(f"The password is refused: use at least {MIN_LENGTH} characters.")
    return PasswordHasher().hash(password)


def check_hash(text: str) -> str:
    """`text`, if it is an argon2id hash with parameters that are not a joke. Raises Invalid."""
    from argon2 import Type, extract_parameters
    from argon2.exceptions import InvalidHashError

    try:
        found = extract_parameters(text)
    except InvalidHashError as error:
        raise Invalid(
            "The password_hash is no argon2 hash: make one with `vdc tenant hash-password`."
        ) from error
    if found.type is not Type.ID or found.memory_cost < 8192:
        raise Invalid("The password_hash is weak: make one with `vdc tenant hash-password`.")
    return text


def verify(password: str, stored: str | None) -> bool:
    """Whether `password` is the one whose hash is `stored`."""
    from argon2 import PasswordHasher
    from argon2.exceptions import VerificationError

    try:
        return PasswordHasher().verify(stored or _NOBODYS, password) and stored is not None
    except VerificationError:
        return False
