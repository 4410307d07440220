"""What can go wrong, sorted by who can mend it.

::

    VdcError
      Refused           the user's side: nothing was touched
        Invalid           a value that can never be right
        NotFound          no such object
        InvalidState      the object exists, but not in a state that allows this
        Conflict          the name, VLAN or address is taken, or another operation holds the object
        QuotaExceeded     the tenant's limit
        NoCapacity        no host, datastore or address pool can take it
        Forbidden         the actor may not
        Unsupported       the driver cannot
        Unready           the platform is not in service (no server, host unreachable at the check)
      Transient         worth a retry
        HostUnreachable   no connection to a host
        Busy              the other side says "not now"
        TimedOut          a call did not return by its deadline
        Throttled         a cloud asks for a slower pace
      DriverFailure     the operator's: carries host, command, stderr
      OperationFailed   an operation ended, and not all of it was done
        GuestKeeps        a guest did not let go of what was to be taken from it
      Superseded        another process took this operation over: stop, touch nothing
"""

from __future__ import annotations


class VdcError(Exception):
    """Base of all errors that carry a sentence for the user."""


class Refused(VdcError):
    """The request is refused; nothing was touched. `recorded`: it is in the audit already."""

    recorded = False


class Invalid(Refused):
    """A value that can never be right."""


class NotFound(Refused):
    """No such object."""


class InvalidState(Refused):
    """The object exists, but its state does not allow this."""


class Conflict(Refused):
    """The name, VLAN or address is taken, or another operation holds the object."""


class QuotaExceeded(Refused):
    """The tenant's limit would be passed."""


class NoCapacity(Refused):
    """No host, datastore or address pool can take it."""


class Forbidden(Refused):
    """The actor may not do this."""


class Unsupported(Refused):
    """The chosen driver cannot do this."""


class Unready(Refused):
    """The platform is not in service: no server, or a host unreachable at the check."""


class Transient(VdcError):
    """Worth a retry."""


class HostUnreachable(Transient):
    """No connection to a host."""


class Busy(Transient):
    """The other side asks to come back later."""


class TimedOut(Transient):
    """A call did not return by its deadline."""


class Throttled(Transient):
    """A cloud asks for a slower pace."""


class DriverFailure(VdcError):
    """A driver's call failed for good.

    `host` names the machine it ran on, `command` what was tried, `stderr` what it answered.
    """

    def __init__(self, message: str, *, host: str = "", command: str = "", stderr: str = "") -> None:
        super().__init__(message)
        self.host = host
        self.command = command
        self.stderr = stderr


class Superseded(VdcError):
    """The operation was taken over by another process: this one must stop and touch nothing."""


class OperationFailed(VdcError):
    """An operation ended and not all of it was done.

    `operation_id` tells where to read more; `machines` may hold what became of each, for `--json`.
    """

    def __init__(self, message: str, operation_id: str) -> None:
        super().__init__(message)
        self.operation_id = operation_id
        self.machines: list[dict[str, object]] = []


class GuestKeeps(OperationFailed):
    """A guest did not let go of what was to be taken from its machine: that has it still."""
