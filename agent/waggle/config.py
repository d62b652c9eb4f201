"""Settings: flags over environment over a YAML file, checked once, refused with the way out.

Names: a setting is written `--ring-size` as a flag, WAGGLE_RING_SIZE in the
environment and `ring-size` in YAML. A source that gives a list replaces the list
of the sources below it. OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_*) belong
to the environment, below a WAGGLE_ one and above the file; the exporter reads them,
from what `Settings.otlp_environ` makes of them.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from waggle.errors import UsageError

if TYPE_CHECKING:
    import yaml

Capture = Literal["auto", "socket", "probe", "syscall"]
CallSite = Literal["off", "client"]
Tls = Literal["auto", "off"]
Inject = Literal["auto", "always", "first", "off"]
TcpOptionUse = Literal["auto", "off"]
GoHandover = Literal["auto", "off"]
SdkUse = Literal["defer", "both", "ignore"]
Protocol = Literal["http/protobuf", "http/json", "grpc"]
Compression = Literal["none", "gzip"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _no_bool(value: object) -> object:
    """YAML's `port: yes` must not become port 1."""
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return value


def _listed(value: object) -> object:
    """One value stands for a list of one; text from the environment is split at commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


def _ruled(value: object) -> object:
    """The same for what has commas of its own: text from the environment is split at blanks."""
    if isinstance(value, str):
        return value.split()
    given = value if isinstance(value, list | tuple) else [value]
    return [str(one) if type(one) in (int, float) else one for one in given]


def _headers(value: object) -> object:
    """A mapping in YAML, or the form OTEL_EXPORTER_OTLP_HEADERS has; the latter comes out."""
    if isinstance(value, dict):
        return ",".join(f"{quote(str(key))}={quote(str(text))}" for key, text in value.items())
    return value


def _bytes(value: object) -> object:
    """Bytes, or 16M."""
    if isinstance(value, str) and value:
        digits, unit = (value[:-1], value[-1].upper()) if value[-1].isalpha() else (value, "")
        if not digits.isdigit() or unit not in _UNITS:
            raise ValueError("not a size")
        value = int(digits) * _UNITS[unit]
    return _no_bool(value)


def _size(value: object) -> object:
    """As _bytes, of a ring: a power of two."""
    value = _bytes(value)
    if isinstance(value, int) and value & (value - 1):
        raise ValueError("not a power of two")
    return value


def _url(value: object) -> object:
    """Only the form; what each protocol makes of it is the exporter's to judge."""
    if isinstance(value, str):
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https", "unix") or not (parts.hostname or parts.path):
            raise ValueError("not a URL")
        _ = parts.port  # raises ValueError for what is no port
    return value


_Number = BeforeValidator(_no_bool)
_Pid = Annotated[int, _Number, Field(ge=1, lt=1 << 31)]
_Port = Annotated[int, _Number, Field(ge=1, le=65535)]
_Glob = Annotated[str, Field(min_length=1)]
_List = BeforeValidator(_listed)
_Url = Annotated[str, BeforeValidator(_url)]


class Settings(BaseModel):
    """Everything a user can set. A description is what an error says was expected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: Annotated[tuple[_Pid, ...], _List] = Field((), description="process ids")
    port: Annotated[tuple[_Port, ...], _List] = Field((), description="ports from 1 to 65535")
    exe: Annotated[tuple[_Glob, ...], _List] = Field((), description="patterns such as */gunicorn")
    name: Annotated[tuple[_Glob, ...], _List] = Field((), description="names such as checkout")
    exclude: Annotated[tuple[_Glob, ...], _List] = Field((), description="patterns such as */curl")
    command: tuple[str, ...] = Field((), description="a command after --")
    follow: bool = Field(True, description="true or false")
    otlp: _Url | None = Field(None, description="a URL such as http://localhost:4318")
    otlp_protocol: Protocol | None = Field(None, description="http/protobuf, http/json or grpc")
    otlp_headers: Annotated[str, BeforeValidator(_headers)] | None = Field(
        None, description="pairs such as authorization=secret,tenant=a"
    )
    otlp_timeout: Annotated[int, _Number] | None = Field(
        None, ge=0, description="milliseconds, 0 for no limit"
    )
    otlp_compression: Compression | None = Field(None, description="none or gzip")
    zipkin: _Url | None = Field(None, description="a URL such as http://localhost:9411")
    json_lines: bool = Field(False, description="true or false")
    json_file: Path | None = Field(None, description="a file such as spans.jsonl")
    json_max: Annotated[int, BeforeValidator(_bytes)] = Field(
        100 << 20, ge=64 << 10, description="a size such as 100M, at least 64K"
    )
    json_keep: Annotated[int, _Number] = Field(
        5, ge=0, le=1000, description="a number from 0 to 1000"
    )
    logs: bool = Field(False, description="true or false")
    logs_rate: Annotated[int, _Number] = Field(
        5000, ge=1, le=1_000_000, description="a number from 1 to 1000000"
    )
    logs_line: Annotated[int, BeforeValidator(_bytes)] = Field(
        16 << 10, ge=64, le=64 << 10, description="a size from 64 to 64K"
    )
    spool: Path | None = Field(None, description="a folder such as /var/lib/waggle")
    spool_max: Annotated[int, BeforeValidator(_bytes)] = Field(
        512 << 20, ge=16 << 20, description="a size such as 512M, at least 16M"
    )
    sample: Annotated[tuple[str, ...], BeforeValidator(_ruled)] = Field(
        (), description="a probability such as 0.1, or rules such as path=/health*:0"
    )
    sample_limit: Annotated[float, _Number] | None = Field(
        None, gt=0, allow_inf_nan=False, description="traces a second, more than 0"
    )
    tail: Annotated[tuple[_Glob, ...], _List] = Field(
        (), description="what to keep, such as error,slow=500ms,p95"
    )
    tail_max: Annotated[int, BeforeValidator(_bytes)] = Field(
        64 << 20, ge=1 << 20, description="a size such as 64M, at least 1M"
    )
    metrics: bool = Field(False, description="true or false")
    prometheus: str | None = Field(None, description="an address such as 127.0.0.1:9464")
    metrics_limit: Annotated[int, _Number] = Field(
        2000, ge=2, le=1_000_000, description="a number from 2 to 1000000"
    )
    baggage: Annotated[tuple[_Glob, ...], _List] = Field((), description="keys such as tenant.*")
    guess_routes: bool = Field(False, description="true or false")
    probe_stats: bool = Field(False, description="true or false")
    health: str | None = Field(None, description="an address such as 127.0.0.1:8686")
    quiet: bool = Field(False, description="true or false")
    verbose: bool = Field(False, description="true or false")
    no_color: bool = Field(False, description="true or false")
    ready_fd: Annotated[int, _Number] | None = Field(
        None, ge=1, description="the number of an open file descriptor"
    )
    capture: Capture = Field("auto", description="auto, socket, probe or syscall")
    sdk: SdkUse = Field("defer", description="defer, both or ignore")
    tcp_option: TcpOptionUse = Field("auto", description="auto or off")
    call_site: CallSite = Field("client", description="off or client")
    tls: Tls = Field("off", description="auto or off")
    go_handover: GoHandover = Field("off", description="auto or off")
    inject: Inject = Field("auto", description="auto, always, first or off")
    inject_to: Annotated[tuple[str, ...], _List] = Field(
        ("loopback", "private"), description="destinations such as private or 10.0.0.0/8:8080"
    )
    ring_size: Annotated[int, BeforeValidator(_size)] = Field(
        8 << 20, ge=64 << 10, le=1 << 30, description="a power of two from 64K to 1G"
    )
    max_processes: Annotated[int, _Number] = Field(
        8192, ge=16, le=1 << 20, description="a number from 16 to 1048576"
    )
    config: Path | None = Field(None, description="a file")

    @property
    def selects_all(self) -> bool:
        """Whether nothing was picked: then everything on the machine is traced."""
        return not (self.pid or self.port or self.exe or self.name or self.command)

    def wants_logs(self, environ: Mapping[str, str]) -> bool:
        """Whether logs are looked at: asked for, or OTEL_LOGS_EXPORTER names an exporter."""
        named = environ.get("OTEL_LOGS_EXPORTER", "").strip().lower()
        return self.logs or named not in ("", "none")

    def otlp_environ(self, environ: Mapping[str, str], scope: str = "TRACES") -> dict[str, str]:
        """The environment for an OTLP exporter: `environ`, with our settings written over it.

        scope: TRACES or LOGS, as the variables have it.
        """
        ours = {
            variable.replace("TRACES", scope): getattr(self, field)
            for field, variable in _OTLP_VARIABLES.items()
        }
        return {
            **environ,
            **{name: str(value) for name, value in ours.items() if value is not None},
        }


# The one of OpenTelemetry's variables that wins over its others, by setting.
_OTLP_VARIABLES = {
    "otlp_protocol": "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "otlp_headers": "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "otlp_timeout": "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "otlp_compression": "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
}

# Settings whose public name is not the field's with dashes.
_PUBLIC = {"json_lines": "json"}
_FIELDS = {_PUBLIC.get(field, field.replace("_", "-")): field for field in Settings.model_fields}
_NOT_IN_FILES = frozenset({"command", "config"})
_NOT_IN_ENVIRONMENT = frozenset({"command"})

# Ours, but not settings: switches of tests and benchmarks, inherited by what they start.
_NOT_SETTINGS = (
    "WAGGLE_TEST_",
    "WAGGLE_BENCH_",
    "WAGGLE_BUILD_",
    "WAGGLE_REQUIRE_",
    "WAGGLE_VM",
    "WAGGLE_WRITE_GOLDEN",
)


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and where it was said, as an error puts it: --port, or 'port' in x.yaml line 3."""

    value: Any
    where: str


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """Settings from all sources; raises UsageError naming the source of what is wrong.

    flags: by field name, only those that were given.
    """
    by_flag = {field: _Given(value, flag_of(field)) for field, value in flags.items()}
    by_environment = dict(_from_environment(environ))
    config = by_flag.get("config") or by_environment.get("config")
    by_file = _from_file(Path(str(config.value))) if config is not None else {}
    lower = {f: value for f, value in by_file.items() if not _said_to_exporter(f, environ)}
    return _checked({**lower, **by_environment, **by_flag})


def _said_to_exporter(field: str, environ: Mapping[str, str]) -> bool:
    """Whether one of OpenTelemetry's variables sets this: then the file's value has no say."""
    if not field.startswith("otlp"):
        return False
    suffix = "ENDPOINT" if field == "otlp" else field.removeprefix("otlp_").upper()
    return any(environ.get(f"OTEL_EXPORTER_OTLP_{kind}{suffix}") for kind in ("", "TRACES_"))


def flag_of(field: str) -> str:
    """--ring-size for ring_size."""
    return "--" + _PUBLIC.get(field, field.replace("_", "-"))


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that names the known word nearest to a mistyped one, or all there are."""
    names = sorted(known)
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known are {', '.join(names)}"


def _checked(given: Mapping[str, _Given]) -> Settings:
    try:
        settings = Settings(**{field: entry.value for field, entry in given.items()})
    except ValidationError as error:
        raise UsageError(_explain(error, given)) from None
    if settings.json_lines and settings.quiet:
        raise UsageError("--json and --quiet contradict each other: give one of them")
    _check_ready(settings.ready_fd)
    return settings


def _check_ready(descriptor: int | None) -> None:
    if descriptor is None:
        return
    try:
        os.fstat(descriptor)
    except OSError:
        raise UsageError(
            f"--ready-fd {descriptor}: no such open file descriptor; "
            f"the shell opens one with {descriptor}>FILE"
        ) from None


def _explain(error: ValidationError, given: Mapping[str, _Given]) -> str:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    expected = Settings.model_fields[field].description
    if field == "otlp_headers":  # they hold secrets
        return f"{given[field].where}: expected {expected}"
    value = first["input"] if len(first["loc"]) > 1 else given[field].value
    return f"{given[field].where}: expected {expected}, got {value!r}"


# --- environment ------------------------------------------------------------


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    # An empty variable counts as not set, as OpenTelemetry's specification has it.
    if environ.get("NO_COLOR"):
        yield "no_color", _Given(True, "NO_COLOR")
    known = {
        "WAGGLE_" + name.upper().replace("-", "_"): field
        for name, field in _FIELDS.items()
        if field not in _NOT_IN_ENVIRONMENT
    }
    for variable, value in environ.items():
        if not variable.startswith("WAGGLE_") or variable.startswith(_NOT_SETTINGS) or not value:
            continue
        if variable not in known:
            raise UsageError(
                f"unknown setting {variable} in the environment: {nearest(variable, known)}"
            )
        yield known[variable], _Given(value, variable)


# --- YAML -------------------------------------------------------------------


def _from_file(path: Path) -> dict[str, _Given]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UsageError(f"no file {path}: check the path given to --config") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    import yaml  # only for those who have a file: it takes its time

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return _from_yaml(root, path)
    except yaml.MarkedYAMLError as error:
        raise UsageError(_syntax_error(error, path)) from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from None


def _syntax_error(error: "yaml.MarkedYAMLError", path: Path) -> str:
    mark = error.problem_mark or error.context_mark
    where = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
    problem = " ".join(part for part in (error.context, error.problem) if part)
    return f"{path}{where}: not valid YAML: {problem or 'unreadable'}"


def _from_yaml(root: "yaml.Node | None", path: Path) -> dict[str, _Given]:
    import yaml

    if root is None or root.tag == "tag:yaml.org,2002:null":
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}: expected settings such as 'port: 8080', one a line")
    given: dict[str, _Given] = {}
    for key, node in root.value:
        line = key.start_mark.line + 1
        field = _field_in_file(str(key.value), path, line)
        if field in given:
            raise UsageError(
                f"'{key.value}' is set twice in {path}, again in line {line}: keep one"
            )
        value = _construct(node)
        given[field] = _Given(value, f"'{key.value}' in {path} line {line}")
    return given


def _field_in_file(key: str, path: Path, line: int) -> str:
    known = {name: field for name, field in _FIELDS.items() if field not in _NOT_IN_FILES}
    field = known.get(key.replace("_", "-"))
    if field is None:
        raise UsageError(f"unknown setting '{key}' in {path} line {line}: {nearest(key, known)}")
    return field


def _construct(node: "yaml.Node") -> object:
    import yaml

    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()
