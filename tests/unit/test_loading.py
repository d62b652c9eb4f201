"""What is loaded before the settings are read is what they would have asked for."""

import pytest

from waggle import agent, cli
from waggle.loading import glance
from waggle.sampling_settings import sampling_of

PLAIN = (
    ["run"],
    ["run", "--pid", "1"],
    ["run", "--pid=1", "--quiet", "--otlp", "http://localhost:4318"],
    ["run", "--port", "8080"],
    ["run", "--exe=*/gunicorn", "--name", "checkout"],
    ["run", "--exclude", "*/curl", "--json", "--call-site", "off", "--metrics"],
)
OTHERS: tuple[list[str], ...] = (
    [],
    ["check"],
    ["run", "--help"],
    ["run", "--", "true"],
    ["run", "--capture", "syscall"],
    ["run", "--capture=syscall"],
    ["run", "--logs"],
    ["run", "--ring-size", "1M"],
    ["run", "--sample", "0.1"],
    ["run", "--config", "waggle.yaml"],
)


@pytest.mark.parametrize("arguments", PLAIN, ids=" ".join)
def test_a_glance_sees_what_the_settings_say(arguments: list[str]) -> None:
    """Where something is loaded early it is what parsing comes to."""
    action = cli.parse(arguments, {})
    assert action is not None
    assert action.settings is not None
    options = agent.options_of(action.settings, sampling_of(action.settings, {}), {})
    assert glance(arguments, {}) == options


@pytest.mark.parametrize("arguments", OTHERS, ids=" ".join)
def test_a_glance_is_not_enough(arguments: list[str]) -> None:
    """Nothing is loaded early where more than the choice of processes is said, or no run at all."""
    assert glance(arguments, {}) is None


@pytest.mark.parametrize(
    "name", ["WAGGLE_CAPTURE", "WAGGLE_PID", "OTEL_TRACES_SAMPLER_ARG", "OTEL_LOGS_EXPORTER"]
)
def test_variables_decide_too(name: str) -> None:
    """Nothing is loaded early where the environment may say something about it."""
    assert glance(["run"], {name: "1"}) is None
