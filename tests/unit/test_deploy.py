"""What is deployed fits what there is: flags, ports, paths, capabilities."""

from pathlib import Path
from typing import Any

import yaml

from waggle.cli import parse
from waggle.health import Health
from waggle.pages import parse_address
from waggle.privileges import LOADING, RUNNING, TELLING

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def container() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod's specification and the one container in it."""
    daemon_set = yaml.safe_load((DEPLOY / "daemonset.yaml").read_text())
    spec = daemon_set["spec"]["template"]["spec"]
    (only,) = spec["containers"]
    return spec, only


def test_the_daemon_set_asks_where_the_agent_answers() -> None:
    """Its arguments parse, and each probe and port is one that they make the agent answer on."""
    _, waggle = container()
    action = parse(waggle["args"], {})
    assert action is not None
    assert action.settings is not None
    ports = {port["name"]: port["containerPort"] for port in waggle["ports"]}
    assert action.settings.health is not None
    assert action.settings.prometheus is not None
    assert parse_address(action.settings.health, "").port == ports["health"]
    assert parse_address(action.settings.prometheus, "").port == ports["metrics"]
    paths = Health(list).pages()
    for probe, path in (
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ):
        asked = waggle[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == (path, "health")
        assert asked["path"] in paths


def test_the_daemon_set_gives_the_capabilities_that_are_needed() -> None:
    """Those and no others, and the machine's own PID namespace."""
    spec, waggle = container()
    given = waggle["securityContext"]["capabilities"]
    assert given["drop"] == ["ALL"]
    assert set(given["add"]) == {one.name for one in (*LOADING, *RUNNING, *TELLING)}
    assert spec["hostPID"] is True


def test_the_daemon_set_shows_the_machines_control_groups() -> None:
    """The option and headers are attached to their root, which a container does not see."""
    spec, waggle = container()
    (mount,) = waggle["volumeMounts"]
    (volume,) = (one for one in spec["volumes"] if one["name"] == mount["name"])
    assert volume["hostPath"]["path"] == "/sys/fs/cgroup"
    assert mount["readOnly"] is True
