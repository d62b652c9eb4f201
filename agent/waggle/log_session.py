"""The part of a session that `--logs` adds: none of it is imported without."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from waggle.capture import Capture
    from waggle.config import Settings
    from waggle.evidence import Joins
    from waggle.logs import LogStage
    from waggle.summary import Summary
    from waggle.watcher import Watcher


def open_logs(
    settings: Settings,
    capture: Capture,
    joins: Joins,
    watcher: Watcher,
    clock: Callable[[], int],
    say: Callable[[str], None],
) -> list[LogStage]:
    """The stage that moves logs, where the capture looks at them: one, or none."""
    if capture.logs is None:
        return []
    from waggle.exporter.log_exporters import make_log_exporters
    from waggle.logs import LogStage

    exporters = make_log_exporters(settings, os.environ, say)
    return [LogStage(capture.logs, joins, watcher, exporters, clock, max_line=settings.logs_line)]


def close_logs(logs: Sequence[LogStage], timeout_s: float) -> None:
    """Send what is left, within the time."""
    for stage in logs:
        stage.close(timeout_s)


def log_summary(summary: Summary, logs: Sequence[LogStage]) -> None:
    """Add to a summary what became of logs."""
    for stage in logs:
        summary.exporters = [*summary.exporters, *stage.exporter_stats()]
        summary.lost = {**summary.lost, **stage.losses()}
