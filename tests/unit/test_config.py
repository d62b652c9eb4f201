"""Settings: where they come from, which one wins, and what a mistake is answered."""

from pathlib import Path

import pytest

from waggle.config import Settings, load_settings
from waggle.errors import UsageError


def write(folder: Path, text: str) -> str:
    path = folder / "waggle.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def refused(flags: dict[str, object], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(flags, environ or {})
    return str(caught.value)


def test_nothing_given() -> None:
    """With nothing said, everything is traced, children included, and printed in colour."""
    settings = load_settings({}, {})
    assert settings == Settings.model_validate({})
    assert settings.selects_all
    assert settings.follow
    assert settings.capture == "auto"


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({}, {}, "syscall"),
        ({}, {"WAGGLE_CAPTURE": "probe"}, "probe"),
        ({"capture": "socket"}, {"WAGGLE_CAPTURE": "probe"}, "socket"),
    ],
)
def test_flag_over_environment_over_file(
    tmp_path: Path, flags: dict[str, object], environ: dict[str, str], expected: str
) -> None:
    """A flag wins over the environment, which wins over the file."""
    config = write(tmp_path, "capture: syscall\n")
    assert load_settings({**flags, "config": config}, environ).capture == expected


def test_sources_add_up(tmp_path: Path) -> None:
    """Different settings of different sources all count."""
    config = write(tmp_path, "port: [8080, 9000]\nmax_processes: 100\nring-size: 1M\n")
    settings = load_settings({"pid": ["7"]}, {"WAGGLE_NAME": "a, b", "WAGGLE_CONFIG": config})
    assert settings.pid == (7,)
    assert settings.port == (8080, 9000)
    assert settings.name == ("a", "b")
    assert settings.max_processes == 100
    assert settings.ring_size == 1 << 20


def test_single_value_is_a_list_of_one(tmp_path: Path) -> None:
    """`port: 8080` needs no brackets."""
    assert load_settings({"config": write(tmp_path, "port: 8080")}, {}).port == (8080,)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    """A file without settings is no mistake."""
    assert load_settings({"config": write(tmp_path, text)}, {}).selects_all


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    """A mistyped key is refused with file, line and the nearest known key."""
    config = write(tmp_path, "# services\nname: a\nporst: 80\n")
    expected = f"unknown setting 'porst' in {config} line 3: did you mean 'port'?"
    assert refused({"config": config}) == expected


def test_unknown_variable_names_the_nearest() -> None:
    """A mistyped WAGGLE_ variable is refused with the nearest known one."""
    message = refused({}, {"WAGGLE_PORTS": "80"})
    assert message == (
        "unknown setting WAGGLE_PORTS in the environment: did you mean 'WAGGLE_PORT'?"
    )


def test_variables_of_tests_are_not_settings() -> None:
    """What the test suite and the benchmarks pass around does not stop the agent."""
    assert load_settings({}, {"WAGGLE_TEST_STRICT": "1", "WAGGLE_BENCH_RATE": "9"}).selects_all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port: [80, http]", "'port' in {} line 1: expected ports from 1 to 65535, got 'http'"),
        ("port: 70000", "'port' in {} line 1: expected ports from 1 to 65535, got 70000"),
        ("port: yes", "'port' in {} line 1: expected ports from 1 to 65535, got True"),
        ("\nquiet: maybe", "'quiet' in {} line 2: expected true or false, got 'maybe'"),
        ("ring-size: 3M", "'ring-size' in {} line 1: expected a power of two from 64K to 1G, "),
        ("capture: all", "'capture' in {} line 1: expected auto, socket, probe or syscall, "),
        ("otlp: collector:4317", "'otlp' in {} line 1: expected a URL such as http://localhost:"),
        ("otlp: ftp://x", "'otlp' in {} line 1: expected a URL such as http://localhost:"),
        ("- port", "{}: expected settings such as 'port: 8080'"),
        ("port: 1\nport: 2", "'port' is set twice in {}, again in line 2: keep one"),
        ("a: b: c", "{} line 1 column 5: not valid YAML: mapping values are not allowed here"),
        ("port: [1,", "{} line 1 column 10: not valid YAML"),
        ("command: [ls]", "unknown setting 'command' in {} line 1"),
        ("port: !!python/name:os.system", "{} line 1 column 7: not valid YAML: could not"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, expected: str) -> None:
    """Every mistake is answered with its place and what was expected."""
    config = write(tmp_path, text)
    assert refused({"config": config}).startswith(expected.format(config))


def test_mistake_names_its_own_source() -> None:
    """An error blames the flag or the variable that said it."""
    assert refused({"pid": ["x"]}).startswith("--pid: expected process ids, got 'x'")
    assert refused({"ring_size": "1K"}).startswith("--ring-size: expected a power of two")
    assert refused({}, {"WAGGLE_PORT": "0"}).startswith("WAGGLE_PORT: expected ports")


def test_secrets_are_not_repeated() -> None:
    """An error about headers does not print them."""
    message = refused({"otlp_headers": ["authorization=hunter2"]})
    assert message.startswith("--otlp-headers: expected pairs")
    assert "hunter2" not in message


def test_missing_file() -> None:
    """A file that is not there is said to be missing, and who asked for it."""
    assert refused({"config": "/nonexistent.yaml"}) == (
        "no file /nonexistent.yaml: check the path given to --config"
    )


def test_file_of_bytes(tmp_path: Path) -> None:
    """A file that is no text is refused as such."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"port: \xff")
    assert refused({"config": str(path)}) == f"{path} is not UTF-8 text (byte 6): save it as UTF-8"


def test_contradiction() -> None:
    """Spans on stdout and silence exclude each other."""
    assert "contradict" in refused({"json_lines": True, "quiet": True})


def test_ready_descriptor_must_be_open() -> None:
    """A descriptor that is not open is refused with the shell's way to open it."""
    assert refused({"ready_fd": "987"}) == (
        "--ready-fd 987: no such open file descriptor; the shell opens one with 987>FILE"
    )


def test_no_color() -> None:
    """NO_COLOR counts when it is not empty."""
    assert load_settings({}, {"NO_COLOR": "1"}).no_color
    assert not load_settings({}, {"NO_COLOR": ""}).no_color


def test_standard_variables_win_over_the_file(tmp_path: Path) -> None:
    """OpenTelemetry's variables are environment, so the file has no say where they speak."""
    config = write(tmp_path, "otlp: http://file:1\notlp-protocol: grpc\notlp-timeout: 5\n")
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:1",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
    settings = load_settings({"config": config}, environ)
    assert settings.otlp is None
    assert settings.otlp_protocol is None
    assert settings.otlp_timeout == 5
    flagged = load_settings({"config": config, "otlp": "http://flag:1"}, environ)
    assert flagged.otlp == "http://flag:1"


def test_environment_for_the_exporter(tmp_path: Path) -> None:
    """The exporter sees our settings in the variables that win over its others."""
    config = write(tmp_path, "otlp-headers: {authorization: a b, tenant: c}\n")
    settings = load_settings({"config": config, "otlp_protocol": "grpc"}, {})
    assert settings.otlp_environ({"HOME": "/", "OTEL_EXPORTER_OTLP_PROTOCOL": "x"}) == {
        "HOME": "/",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "x",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=a%20b,tenant=c",
    }
