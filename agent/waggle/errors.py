"""The errors Waggle raises on purpose, and the exit code each one ends in.

    WaggleError            1  something went wrong that we can name
    ├─ UsageError          2  a flag, a setting or a file is not what it must be
    ├─ PrivilegeError      3  a capability is missing
    ├─ UnsupportedError    4  this kernel or machine cannot do what is needed
    └─ TargetError         5  the process to trace is not there, or could not be started

A message says what is wrong and, after a colon or in a second sentence, the way
out. Only `main()` prints errors and sets exit codes.
"""


class WaggleError(Exception):
    """Base of every error that has a message for the user."""

    exit_code = 1


class UsageError(WaggleError):
    """Bad input: flags, environment, configuration file, output file."""

    exit_code = 2


class PrivilegeError(WaggleError):
    """A capability is missing; the message names it."""

    exit_code = 3


class UnsupportedError(WaggleError):
    """The kernel or the machine lacks something; the message names it."""

    exit_code = 4


class TargetError(WaggleError):
    """A process to trace does not exist or cannot be started."""

    exit_code = 5
