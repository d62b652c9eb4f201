"""Reading what processes and the machine have used."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: all CPU time, in ns, of a whole process


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, ended threads included.

    The same account as utime + stime of /proc/PID/stat, in ns instead of ticks of 10 ms: the
    clock that clock_getcpuclockid(3) gives for a process.
    """
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def rss_mb(pid: int) -> float:
    """Resident memory in MB; the mapped rings count in it."""
    return _status_kb(pid, "VmRSS") * 1024 / 1e6


def private_mb(pid: int) -> float:
    """What would come free if the process ended: resident memory without files and the ring."""
    return _status_kb(pid, "RssAnon") * 1024 / 1e6


def _status_kb(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise LookupError(f"/proc/{pid}/status has no {field}")


@dataclass(frozen=True, slots=True)
class Busy:
    """CPU seconds of the whole machine so far, and when that was."""

    cpu_s: float
    at_s: float

    @classmethod
    def now(cls) -> "Busy":
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
        ticks = user + nice + system + irq + softirq + steal
        return cls(ticks / os.sysconf("SC_CLK_TCK"), time.monotonic())


def others_share(before: Busy, after: Busy, ours_s: float) -> float:
    """The share of the machine's CPU time, 0 to 1, that went to neither us nor idling."""
    available = (after.at_s - before.at_s) * (os.cpu_count() or 1)
    return max(0.0, (after.cpu_s - before.cpu_s - ours_s) / available)


def machine() -> str:
    """The machine in words, without its name."""
    cores = os.cpu_count() or 1
    release = ".".join(platform.release().split(".")[:2])
    return f"{cores} virtual cores ({_processor()}), Linux {release}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def paired(base: list[float], other: list[float]) -> tuple[float, float]:
    """Median of the differences and of the ratios of pairs that were measured together."""
    pairs = list(zip(base, other, strict=True))
    return median(b - a for a, b in pairs), median(b / a for a, b in pairs)
