"""Load on an HTTP server: wrk as fast as it goes, or a steady rate."""

import json
import math
import re
import resource
import subprocess
from dataclasses import dataclass

from .paths import c_program, wrk

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60_000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a load generator came to. cpu_s: of the generator itself."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class LoadError(Exception):
    """The load generator saw errors, or its output says nothing."""


def full_load(url: str, connections: int, seconds: float) -> Load:
    """wrk with one thread. Raises LoadError when any request failed."""
    command = [wrk(), "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "20s"]
    command += ["--latency", url]
    text, cpu_s = _run(command, seconds)
    if "Socket errors" in text or "Non-2xx" in text:
        raise LoadError(f"requests failed:\n{text}")
    total = re.search(r"(\d+) requests in ([\d.]+)(\w+),", text)
    if total is None:
        raise LoadError(f"not wrk's output:\n{text}")
    duration = float(total[2]) * _UNITS_MS[total[3]] / 1e3
    return Load(int(total[1]), duration, _percentile(text, 50), _percentile(text, 99), cpu_s)


def streams_load(url: str, connections: int, streams: int, seconds: float) -> Load:
    """h2load with one thread: HTTP/2, `streams` requests at once on each connection. It tells no
    percentiles. Raises LoadError when any request failed."""
    command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{round(seconds)}", url]
    text, cpu_s = _run(command, seconds)
    total = re.search(r"requests: .* (\d+) succeeded, 0 failed, 0 errored, 0 timeout", text)
    if total is None or not int(total[1]):
        raise LoadError(f"requests failed:\n{text}")
    return Load(int(total[1]), round(seconds), math.nan, math.nan, cpu_s)


def steady_load(port: int, connections: int, rate: int, seconds: float) -> Load:
    """`rate` requests a second, each answered. Late requests are sent late, none is left out."""
    counts = (connections, rate, round(rate * seconds))
    text, cpu_s = _run([str(c_program("steady")), str(port), *map(str, counts)], seconds)
    told = json.loads(text)
    return Load(told["requests"], told["seconds"], told["p50_ms"], told["p99_ms"], cpu_s)


def _percentile(text: str, percent: int) -> float:
    found = re.search(rf"^\s*{percent}%\s+([\d.]+)(\w+)\s*$", text, re.MULTILINE)
    if found is None:
        raise LoadError(f"no {percent} % in wrk's output:\n{text}")
    return float(found[1]) * _UNITS_MS[found[2]]


def _run(command: list[str], seconds: float) -> tuple[str, float]:
    before = _children_cpu_s()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds * 5 + 30, check=False
    )
    if done.returncode != 0:
        raise LoadError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout, _children_cpu_s() - before


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
