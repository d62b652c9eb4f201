"""Sampling as it is asked for: variables, rules, limit and tail; probabilities as thresholds."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.config import load_settings
from waggle.errors import UsageError
from waggle.sampling import NEVER, Rule, Sampling, Tail, threshold_of, threshold_text
from waggle.sampling_settings import LONGEST_PATH, MOST_RULES, sampling_of


def sampling(environ: dict[str, str] | None = None, **flags: object) -> Sampling:
    environ = environ or {}
    return sampling_of(load_settings(flags, environ), environ)


def refused(environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(UsageError) as caught:
        sampling(environ, **flags)
    return str(caught.value)


# OpenTelemetry, "TraceState: Probability Sampling": 1 in N, four digits of precision.
@pytest.mark.parametrize(
    ("one_in", "text"),
    [
        *((1, "0"), (2, "8"), (3, "aaab"), (4, "c"), (5, "cccd"), (8, "e"), (10, "e666")),
        *((16, "f"), (100, "fd70a"), (1000, "ffbe77"), (10_000, "fff9724")),
        *((100_000, "ffff583a"), (1_000_000, "ffffef39")),
    ],
)
def test_thresholds_are_those_of_the_specification(one_in: int, text: str) -> None:
    """Each row of the specification's table."""
    assert threshold_text(threshold_of(1 / one_in)) == text


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_greater_probability_has_no_greater_threshold(one: float, other: float) -> None:
    """So whatever passes the smaller probability passes the greater: that is consistency."""
    low, high = sorted((one, other))
    assert threshold_of(low) >= threshold_of(high)


@given(st.floats(1e-6, 1))
def test_a_threshold_keeps_as_many_as_were_asked_for(probability: float) -> None:
    """To one part in 4,000, or, near 1, in 60,000 of all; and it fits into a hand-off."""
    threshold = threshold_of(probability)
    assert (NEVER - threshold) / NEVER == pytest.approx(probability, rel=1 / 4000, abs=1 / 60_000)
    assert threshold % 256 == 0


def test_none_and_hardly_any_differ() -> None:
    """0 keeps nothing, the smallest probability something."""
    assert threshold_of(0.0) == NEVER
    assert threshold_of(math.ulp(0.0)) < NEVER


@pytest.mark.parametrize(
    ("name", "argument", "probability", "independent"),
    [
        ("", None, 1.0, False),
        ("always_on", None, 1.0, True),
        ("always_off", None, 0.0, True),
        ("traceidratio", "0.25", 0.25, True),
        ("traceidratio", None, 1.0, True),
        ("parentbased_always_on", "0.1", 1.0, False),
        ("parentbased_always_off", None, 0.0, False),
        ("parentbased_traceidratio", "1e-3", 0.001, False),
        (" PARENTBASED_TRACEIDRATIO ", " 0 ", 0.0, False),
    ],
)
def test_every_standard_sampler(
    name: str, argument: str | None, probability: float, independent: bool
) -> None:
    """The names and arguments of the specification mean what it says."""
    environ = {"OTEL_TRACES_SAMPLER": name}
    if argument is not None:
        environ["OTEL_TRACES_SAMPLER_ARG"] = argument
    found = sampling(environ)
    assert (found.probability, found.independent) == (probability, independent)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("always", "", "OTEL_TRACES_SAMPLER=always: no such sampler: did you mean 'always_o"),
        ("jaeger_remote", "", "OTEL_TRACES_SAMPLER=jaeger_remote: samplers that ask a server are"),
        ("xray", "", "OTEL_TRACES_SAMPLER=xray: samplers that ask a server are not supported"),
        ("traceidratio", "10%", "OTEL_TRACES_SAMPLER_ARG=10%: expected a probability from 0 to 1"),
        ("traceidratio", "1.5", "OTEL_TRACES_SAMPLER_ARG=1.5: expected a probability from 0 to 1"),
        ("traceidratio", "-0.1", "OTEL_TRACES_SAMPLER_ARG=-0.1: expected a probability from 0"),
        ("parentbased_traceidratio", "nan", "OTEL_TRACES_SAMPLER_ARG=nan: expected a probability"),
    ],
)
def test_bad_samplers_are_refused(name: str, argument: str, message: str) -> None:
    """What no sampler is called, and what is no probability, is named with the way out."""
    environ = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert refused(environ).startswith(message)


def test_without_a_sampler_nothing_is_decided() -> None:
    """The default costs nothing: the kernel's mode is 0, also when it is asked for by name."""
    assert sampling() == Sampling()
    assert Sampling().mode == 0
    assert sampling({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}).mode == 0
    assert sampling({"OTEL_TRACES_SAMPLER": "always_on"}).mode == 3
    assert sampling(sample=["path=/a:0.5"]).mode == 13
    assert sampling(sample=["service=a:0.5"]).mode == 5
    assert sampling(sample_limit="5").mode == 1


def test_rules() -> None:
    """Conditions in any order; a * ends a path that may go on; without one it is exact."""
    found = sampling(
        sample=["path=/health*:0", "service=check*, path=/pay:1", "service=a:0.5", "0.1"]
    )
    assert found.rules == (
        Rule(0.0, path=b"/health"),
        Rule(1.0, "check*", b"/pay", exact=True),
        Rule(0.5, "a"),
        Rule(0.1),
    )
    assert found.probabilities == (1.0, 0.0, 1.0, 0.5, 0.1)
    assert found.rules_for("checkout") == 0b10110
    assert found.rules_for("a") == 0b11010
    assert found.rules_for_all == found.rules_for("b") == 0b10010


def test_rules_from_the_environment_are_split_at_blanks() -> None:
    """Their commas are their own."""
    found = sampling({"WAGGLE_SAMPLE": "service=a,path=/b:0  0.5"})
    assert found.rules == (Rule(0.0, "a", b"/b", exact=True), Rule(0.5))


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("sample: 0.25", (Rule(0.25),)),
        ("sample: 1", (Rule(1.0),)),
        ('sample: ["path=/health*:0", 0.25]', (Rule(0.0, path=b"/health"), Rule(0.25))),
        ("sample:\n- service=a:1\n- 0", (Rule(1.0, "a"), Rule(0.0))),
    ],
)
def test_rules_from_a_file(tmp_path: Path, text: str, rules: tuple[Rule, ...]) -> None:
    """One, or a list; a bare probability may be a number."""
    config = tmp_path / "waggle.yaml"
    config.write_text(text)
    assert sampling(config=str(config)).rules == rules


def test_what_is_no_rule_in_a_file(tmp_path: Path) -> None:
    """A truth or a mapping is refused with its place."""
    for text in ("sample: yes", "sample: {path: /a}", "sample: [[0.1]]"):
        config = tmp_path / "waggle.yaml"
        config.write_text(text)
        assert "'sample' in" in refused(config=str(config))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["2"], "--sample 2: expected a probability from 0 to 1"),
        (["path=/a"], "--sample path=/a: expected a probability from 0 to 1"),
        (["route=/a:0"], "--sample route=/a:0: 'route=/a' is no condition: expected service=NAME"),
        (["path=:0"], "--sample path=:0: 'path=' is no condition"),
        (["path=a:0"], "--sample path=a:0: the kernel compares the beginning of a path"),
        (["path=/*/a:0"], "--sample path=/*/a:0: the kernel compares the beginning of a path"),
        (["path=/a,path=/b:0"], "--sample path=/a,path=/b:0: path is there twice"),
        ([f"path=/{'a' * LONGEST_PATH}:0"], f"--sample path=/{'a' * LONGEST_PATH}:0: the path has"),
        (["0.5", "path=/a:0"], "--sample 0.5: no rule behind it can ever apply"),
        ([f"path=/{n}:0" for n in range(MOST_RULES + 1)], "--sample: 16 rules are too many"),
    ],
)
def test_bad_rules_are_refused(rules: list[str], message: str) -> None:
    """What the kernel could not decide is no rule, and the message says why."""
    assert refused(sample=rules).startswith(message)


def test_tail() -> None:
    """The terms, their times, and the bounds."""
    found = sampling(sample=["0.1"], tail="error,slow=250ms,p95,hold=30s", tail_max="2M")
    assert found.tail == Tail(True, 0.25, True, 30.0, 2 << 20)
    assert sampling(sample=["0"], tail="p95").tail == Tail(p95=True)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("errors", "--tail: no term 'errors': did you mean 'error'?"),
        ("slow", "--tail slow: expected a time such as 500ms or 2s"),
        ("slow=5", "--tail slow=5: expected a time such as 500ms or 2s"),
        ("slow=-1s", "--tail slow=-1s: expected a time such as 500ms or 2s"),
        ("hold=5s", "--tail: say what is to be kept: error, slow=500ms or p95"),
    ],
)
def test_bad_tails_are_refused(terms: str, message: str) -> None:
    """A term that is none, a time that is none, and a tail that keeps nothing."""
    assert refused(sample=["0"], tail=terms) == message


def test_a_tail_without_a_sampler_is_refused() -> None:
    """Nothing is dropped, so there is nothing to keep."""
    assert refused(tail="error").startswith("--tail keeps what a sampler drops, and nothing is")


def test_a_limit_is_a_rate() -> None:
    """More than nothing, and a number."""
    assert sampling(sample_limit="2.5").limit == 2.5
    for text in ("0", "-1", "nan", "inf", "many"):
        assert refused(sample_limit=text).startswith("--sample-limit: expected traces a second")
