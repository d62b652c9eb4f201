"""What can go wrong before a command has run inside.

VmError
├─ ToolMissingError       qemu and its like, or virtme-ng, are not here
├─ KernelMissingError     no kernel could be had: no network, no such suite
└─ MachineFailedError     the machine did not boot, hung, or died under the command
"""


class VmError(Exception):
    """Base of every error whose message is written for the person who ran the tests."""


class ToolMissingError(VmError):
    """A program or package that the machine needs is not installed."""


class KernelMissingError(VmError):
    """A suite's kernel is neither cached nor to be had."""


class MachineFailedError(VmError):
    """The command inside gave no exit code; the message names the console's log."""
