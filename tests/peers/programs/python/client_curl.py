"""A target program: curl. Each worker is one curl process that keeps its connection over all its
URLs, which it reads from a config file."""

import subprocess
import sys
import tempfile
from pathlib import Path

import client


def _config(job: client.Job, numbers: range, folder: Path) -> str:
    lines = ["silent", "show-error", "globoff", "max-time = 30", 'noproxy = "*"']
    if client.CERTIFICATE:
        lines.append(f'cacert = "{client.CERTIFICATE}"')
    if job.unix:
        lines.append(f'unix-socket = "{job.unix}"')
    if job.close:
        lines.append('header = "Connection: close"')
    for n in numbers:
        lines += [f'url = "{job.url(n)}"', f'output = "{folder / str(n)}"']
    return "\n".join(lines) + "\n"


def _start(job: client.Job, numbers: range, folder: Path) -> "subprocess.Popen[bytes]":
    config = folder / f"config-{numbers.start}"
    config.write_text(_config(job, numbers, folder))
    return subprocess.Popen(["curl", "--disable", "--config", str(config)])


def _fetch_all(job: client.Job, numbers: range, folder: Path) -> None:
    shares = [numbers[i :: job.concurrency] for i in range(job.concurrency)]
    running = [_start(job, share, folder) for share in shares if share]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"curl ended with {codes}")
    for n in numbers:
        client.check(n, 0, (folder / str(n)).read_text())


def main() -> None:
    job = client.parse(__doc__)
    if job.traceparent:
        raise SystemExit("this curl client sends one set of headers for all its URLs")
    if job.gate:
        raise SystemExit("curl cannot keep its connections over a gate; use --gate 0")
    with tempfile.TemporaryDirectory() as folder:
        for numbers in job.phases():
            _fetch_all(job, numbers, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
