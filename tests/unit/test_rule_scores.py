"""The scores of rules, as they are told."""

import numpy as np

from waggle import layout
from waggle.rule_scores import score_lines


def entry(**scores: int) -> np.void:
    row = np.zeros(1, layout.PROCESS)
    for name, count in scores.items():
        row[name] = count
    made: np.void = row[0]
    return made


def test_rules_that_responses_have_spoken_about() -> None:
    """Each such rule of each process has a line; one that was contradicted has ended there."""
    found = score_lines(
        {
            9: entry(turn_agrees=1200, turn_contradicts=1),
            7: entry(thread_agrees=3, turn_agrees=40),
            8: entry(),
        }
    )
    assert found == [
        "thread in process 7: 3 responses agree, 0 contradict",
        "turn in process 7: 40 responses agree, 0 contradict",
        "turn in process 9: 1,200 responses agree, 1 contradict; ended there",
    ]


def test_alone() -> None:
    """Its score is what it claimed, and the calls that came while nothing was served."""
    found = score_lines(
        {
            7: entry(alone_calls=1200),
            8: entry(alone_calls=3, alone_contradicts=1, thread_agrees=1),
            9: entry(alone_contradicts=1),
        }
    )
    assert found == [
        "alone in process 7: 1,200 calls claimed, 0 while idle",
        "thread in process 8: 1 responses agree, 0 contradict",
        "alone in process 8: 3 calls claimed, 1 while idle; ended there",
        "alone in process 9: 0 calls claimed, 1 while idle; ended there",
    ]
