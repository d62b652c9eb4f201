"""What can go wrong before a command has run inside.

VmError
├─ ToolMissing       qemu and its like, or virtme-ng, are not here
├─ KernelMissing     no kernel could be had: no network, no such suite
└─ MachineFailed     the machine did not boot, hung, or died under the command
"""


class VmError(Exception):
    """Base of every error whose message is written for the person who ran the tests."""


class ToolMissing(VmError):
    """A program or package that the machine needs is not installed."""


class KernelMissing(VmError):
    """A suite's kernel is neither cached nor to be had."""


class MachineFailed(VmError):
    """The command inside gave no exit code; the message names the console's log."""
