"""waggle.summary: what is said at the end is true, whole and short."""

import time

import numpy as np
import pytest

from waggle import layout
from waggle.exporter.base import ExporterStats
from waggle.layout import Counter
from waggle.summary import AgentCost, Summary, TraceCount, kernel_losses, render

COST = AgentCost(cpu_s=0.5, wall_s=61.25, peak_memory=48_000_000, start_cpu_s=0.25)


def records_of(traces: int, seed: int) -> np.ndarray:
    records = np.zeros(traces, dtype=layout.EXCHANGE)
    records["trace_id"] = np.random.default_rng(seed).integers(0, 256, (traces, 16), np.uint8)
    return records


def test_a_run_without_losses() -> None:
    """All parts of the summary are there, and no loss is said to be none."""
    summary = Summary(
        spans=1_234,
        traces=310,
        cost=COST,
        processes=["nginx 3991", "shop 4121 (gunicorn)"],
        exporters=[("console", ExporterStats(exported=1_234))],
    )
    assert render(summary) == (
        "waggle: 1,234 spans in 310 traces from 2 processes in 61.2 s\n"
        "  processes  nginx 3991, shop 4121 (gunicorn)\n"
        "  exported   1,234 by console\n"
        "  lost       nothing\n"
        "  cost       0.50 s of CPU (0.82 % of one core, 0.25 s of it to start, 202.6 us a span),"
        " 48 MB of memory at most\n"
    )


def test_headers_for_strangers() -> None:
    """How many headers were written is told, and why others were not; nothing where none were."""
    kernel = {
        Counter.INJECT_WRITTEN: 1_200,
        Counter.INJECT_ENROLLED: 1_300,
        Counter.INJECT_HAS_ONE: 3,
        Counter.INJECT_UNKNOWN_PEER: 2,
    }
    assert (
        "\n  headers    traceparent written into 1,200 requests;"
        " not into has_one 3, unknown_peer 2\n"
    ) in render(Summary(spans=1, traces=1, cost=COST, kernel=kernel))
    assert "headers" not in render(Summary(spans=1, traces=1, cost=COST))


def test_encrypted_connections() -> None:
    """Without --tls it is told how many connections were not looked into, and what does."""
    kernel = {Counter.TLS_LEFT_ALONE: 2}
    assert "\n  encrypted  2 connections were not looked into: --tls auto does\n" in render(
        Summary(spans=1, traces=1, cost=COST, kernel=kernel)
    )
    assert "encrypted" not in render(Summary(spans=1, traces=1, cost=COST))


def test_what_was_not_sampled_is_no_loss() -> None:
    """Spans that were left out are told by who decided so, and those that the tail kept."""
    summary = Summary(
        spans=5,
        traces=5,
        cost=COST,
        unsampled={"sampler": 1_000, "parent": 2},
        kept_by_tail={"slow": 3, "error": 1},
        forgotten_by_tail=7,
    )
    assert (
        "\n  unsampled  1,002 spans (parent 2, sampler 1,000);"
        " 4 of them kept by the tail (error 1, slow 3)"
        "; 7 could not wait for a reason: --tail-max\n  lost       nothing\n"
    ) in render(summary)


def test_what_no_screen_can_show_is_no_loss() -> None:
    """Spans of traces that a terminal leaves out are told, and are not among the losses."""
    drawn = ExporterStats(exported=270, lost={"above_draw_rate": 477})
    text = render(Summary(spans=747, traces=78, cost=COST, exporters=[("console", drawn)]))
    assert (
        "\n  not drawn  477 spans: more traces than a screen can show\n  lost       nothing\n"
    ) in text


def test_every_loss_is_told_with_its_reason() -> None:
    """Losses of kernel, pipeline and exporters all appear, the largest first."""
    summary = Summary(
        spans=1,
        traces=1,
        cost=COST,
        processes=["shop 1"],
        kernel={Counter.LOST_RING_FULL: 3, Counter.EXCHANGES: 1, Counter.LOST_BAD_FRAMING: 0},
        exporters=[("otlp", ExporterStats(exported=7, queued=2, lost={"queue_full": 1_200}))],
        lost={"no_exporter": 9},
    )
    assert render(summary) == (
        "waggle: 1 span in 1 trace from 1 process in 61.2 s\n"
        "  processes  shop 1\n"
        "  exported   7 by otlp, 2 not sent\n"
        "  lost       1,200 otlp queue_full\n"
        "                 9 no_exporter\n"
        "                 3 ring_full: the agent did not keep up with the kernel's records\n"
        "  cost       0.50 s of CPU (0.82 % of one core, 0.25 s of it to start,"
        " 250,000.0 us a span), 48 MB of memory at most\n"
    )


def test_nothing_seen_is_a_summary_too() -> None:
    """A run without spans, and without time, divides by nothing."""
    text = render(Summary(spans=0, traces=0, cost=AgentCost(0.1, 0.0, 1_000_000)))
    assert text.startswith("waggle: 0 spans in 0 traces from 0 processes in 0.0 s\n")
    assert "  cost       0.10 s of CPU, 1 MB of memory at most\n" in text


def test_many_processes_take_few_lines() -> None:
    """The list of processes is cut with the number of those left out, all within the width."""
    processes = [f"service-{number} {number}" for number in range(500)]
    lines = render(Summary(spans=1, traces=1, cost=COST, processes=processes)).splitlines()
    listed = [line for line in lines if "service-" in line]
    assert len(listed) == 3
    shown = sum(line.count("service-") for line in listed)
    assert listed[-1].endswith(f"and {500 - shown} more")
    assert all(len(line) <= 100 for line in listed)


def test_only_losses_are_losses() -> None:
    """Counters that count what went well are not told as losses, all others are."""
    counters = dict.fromkeys(Counter, 1)
    losses = kernel_losses(counters)
    assert "ring_full" in losses
    assert len(losses) == sum(counter.name.startswith("LOST_") for counter in Counter)


def test_few_traces_are_counted_exactly() -> None:
    """Up to the limit the count is exact, whatever batches a trace comes in."""
    count = TraceCount(exact=1_000)
    records = records_of(1_000, seed=1)
    count.add(records[:700])
    count.add(records[300:])
    assert (count.exact, count.value) == (True, 1_000)


@pytest.mark.parametrize("traces", [2_000, 30_000, 300_000])
def test_many_traces_are_counted_nearly(traces: int) -> None:
    """Above the limit the count is off by less than four standard errors."""
    count = TraceCount(exact=1_000)
    records = records_of(traces, seed=traces)
    for _ in range(2):  # a second time changes nothing
        count.add(records)
    assert not count.exact
    assert abs(count.value / traces - 1) < 0.033


def test_ids_that_differ_little_are_counted_too() -> None:
    """Trace ids that a program counts up, instead of drawing them, are told apart."""
    records = np.zeros(50_000, dtype=layout.EXCHANGE)
    records["trace_id"][:, 12:] = np.arange(1, 50_001, dtype=">u4").view(np.uint8).reshape(-1, 4)
    count = TraceCount(exact=1_000)
    count.add(records)
    assert abs(count.value / 50_000 - 1) < 0.033


def test_the_cost_is_that_of_this_process() -> None:
    """CPU time grows with work done, memory is that of a Python process."""
    started = time.monotonic()
    before = AgentCost.since(started)
    while time.process_time() < before.cpu_s + 0.02:
        pass
    after = AgentCost.since(started)
    assert after.cpu_s >= before.cpu_s + 0.01
    assert after.wall_s > before.wall_s
    assert 5_000_000 < after.peak_memory < 2_000_000_000
