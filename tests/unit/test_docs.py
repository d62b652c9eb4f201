"""What the documents name exists: prose that nothing executes rots."""

import re
import shlex
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from waggle import cli, config, errors, evidence, main
from waggle.layout import Counter, Link
from waggle.privileges import LOADING, RUNNING, TELLING
from waggle.probes.go import handlers
from waggle.probes.python import call_sites

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = ("agent", "bpf", "exporter", "probes", "deploy", "tests")

# Made by builds, so absent from a clean tree.
BUILT = ("build/", ".venv/", "agent/waggle/bpf/")

CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TARGET = re.compile(r"^([a-z-]+):.*", re.MULTILINE)


@cache
def text(path: Path) -> str:
    return path.read_text("utf-8")


@cache
def code_spans(path: Path) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", text(path), flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^ {4}.*$", "", prose, flags=re.MULTILINE)
    return CODE_SPAN.findall(prose)


def command_lines(path: Path) -> Iterator[str]:
    """Commands: the lines of indented blocks, without trailing comments, and code spans."""
    for line in re.findall(r"^ {4}(\S.*)$", text(path), re.MULTILINE):
        yield re.sub(r"\s{2,}#.*", "", line).strip()
    yield from code_spans(path)


@cache
def all_sources() -> str:
    """Everything a name may come from, but this file."""
    files = [
        file
        for folder in SOURCES
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in (".py", ".h", ".c") and "__pycache__" not in file.parts
    ]
    return "\n".join(text(file) for file in files if file != Path(__file__).resolve())


def tables(path: Path) -> Iterator[list[str]]:
    """The cells of each row of each table."""
    for line in text(path).splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_documents_are_found() -> None:
    """The documents this file is about are where it looks for them."""
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "architecture.md"} <= names
    assert {"parents.md", "limitations.md", "exit-codes.md", "kernels.md"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file of the repository."""
    links = [link for link in LINK.findall(text(path)) if "://" not in link]
    missing = [link for link in links if not (path.parent / link.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    """A code span that looks like a path of the repository is one."""
    first_parts = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} | {"build"}
    paths = [
        span
        for span in code_spans(path)
        if re.fullmatch(r"[\w.][\w./-]*/[\w./-]*", span) and span.split("/")[0] in first_parts
    ]
    missing = [p for p in paths if not p.startswith(BUILT) and not (ROOT / p).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_functions_exist(path: Path) -> None:
    """`name()` is a function of the sources, and `enum name` or `struct name` a type of the C."""
    functions = {m[1] for span in code_spans(path) if (m := re.fullmatch(r"(\w+)\(\)", span))}
    types = {span for span in code_spans(path) if re.fullmatch(r"(enum|struct) \w+", span)}
    defined = all_sources()
    missing = [
        name for name in functions if not re.search(rf"(\bdef |[\s*(]){name}\(|\({name},", defined)
    ]
    missing += [name for name in types if f"{name} {{" not in defined]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_classes_and_constants_exist(path: Path) -> None:
    """Names in our own spelling (CamelCase, or capitals with an underscore) are in the sources."""
    names = {
        span
        for span in code_spans(path)
        if re.fullmatch(r"([A-Z][a-z]+){2,}|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", span)
    }
    foreign = {name for name in names if name.startswith(("OTEL_", "CAP_"))}
    known = all_sources() + " ".join(_variables())
    assert not {name for name in names - foreign if not re.search(rf"\b(_|\w+_)?{name}\b", known)}


def _variables() -> list[str]:
    """The environment variables that settings can come from."""
    return [
        "WAGGLE" + config.flag_of(field)[1:].upper().replace("-", "_")
        for field in config.Settings.model_fields
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_options_exist(path: Path) -> None:
    """A code span that begins with -- is an option of `waggle run`."""
    run = cli.commands.commands["run"]
    known = {name for option in run.params for name in (*option.opts, *option.secondary_opts)}
    named = {span.split()[0] for span in code_spans(path) if re.match(r"--[a-z]", span)}
    assert not named - known


def _waggle_commands() -> list[tuple[str, str]]:
    return [
        (path.name, line)
        for path in DOCUMENTS
        for line in command_lines(path)
        if re.match(r"(sudo )?(\w+=\S+ )*waggle [a-z]", line)
    ]


@pytest.mark.parametrize(("document", "line"), _waggle_commands())
def test_commands_are_understood(document: str, line: str) -> None:
    """Every command line of the documents parses as what a user would type."""
    words = shlex.split(line.partition(" > ")[0])
    words = words[words.index("waggle") + 1 :]
    if "--config" in words:
        pytest.skip(f"{document}: needs a file")
    cli.parse(words, {})


def test_there_are_commands_to_check() -> None:
    """The commands that the README promises are found by the test above."""
    lines = [line for document, line in _waggle_commands() if document == "README.md"]
    assert len(lines) >= 6


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_make_targets_exist(path: Path) -> None:
    """`make NAME` is a target of the Makefile."""
    targets = set(TARGET.findall(text(ROOT / "Makefile")))
    lines = [line for line in command_lines(path) if re.search(r"(^|sudo |\w=\S+ |&& )make ", line)]
    named = {
        word
        for line in lines
        for word in re.findall(r"\bmake ([a-z][a-z-]*)", line)
        if "=" not in word
    }
    assert not named - targets


def test_every_target_explains_itself() -> None:
    """`make help` lists every target that a person would call."""
    makefile = text(ROOT / "Makefile")
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE))
    called = {name for line in phony for name in line.split()} - {"packages", "packages-dev"}
    explained = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert explained == called


def _final_errors() -> list[type[errors.WaggleError]]:
    """The errors with a code of their own; other modules may derive more."""
    derived = errors.WaggleError.__subclasses__()
    return [error for error in derived if error.__module__ == errors.__name__]


def test_exit_codes() -> None:
    """docs/exit-codes.md has the codes of the errors and of main(), README those of the errors."""
    classes: list[type[errors.WaggleError]] = [errors.WaggleError, *_final_errors()]
    ours = {error.exit_code: error.__name__ for error in classes}
    rows = [row for row in tables(ROOT / "docs/exit-codes.md") if row[0].isdigit()]
    assert {int(row[0]): row[2].strip("`") for row in rows if row[2]} == ours
    others = {int(row[0]) for row in rows if not row[2]}
    assert others == {0, main._INTERRUPTED, main._BROKEN_PIPE}
    short = {int(row[0]) for row in tables(ROOT / "README.md") if row[0].isdigit()}
    assert short == {0, *ours}
    assert all(str(code) in cli.EXIT_CODES for code in short)


def test_every_parent_rule_is_described() -> None:
    """docs/parents.md has a section for each kind of evidence, and for nothing else."""
    sections = re.findall(r"^## `(\w+)`$", text(ROOT / "docs/parents.md"), re.MULTILINE)
    assert sorted(sections) == sorted(link.name.lower() for link in Link if link != Link.NONE)


def test_named_counters_exist() -> None:
    """Counters that docs/parents.md names are counters of the kernel's side."""
    named = {
        span
        for span in code_spans(ROOT / "docs/parents.md")
        if re.fullmatch(r"[A-Z]+_[A-Z_]+", span)
    }
    assert named
    assert named <= set(Counter.__members__)


def test_bounds_are_those_of_the_code() -> None:
    """The table of bounds in docs/limitations.md says what the BPF sources say."""
    sources = "".join(text(file) for file in sorted((ROOT / "bpf").glob("*.h")))
    entries = {name: int(n) for name, n in re.findall(r"MAP\((\w+), \w+, (\d+),", sources)}
    entries |= {name: int(n) for name, n in re.findall(r"#define (\w+) (\d+)\b", sources)}
    entries |= {
        name: int(n) for name, n in re.findall(r"const volatile u32 (\w+) = (\d+)", sources)
    }
    entries |= {"MAX_HELD": evidence.MAX_HELD, "HOLD_S": int(evidence.HOLD_S)}
    entries |= {"MAX_CODES": call_sites.MAX_CODES, "MAX_PLACES": call_sites.MAX_PLACES}
    entries |= {"MAX_PROGRAMS": handlers.MAX_PROGRAMS}
    said = {
        name.group(1): int(row[1])
        for row in tables(ROOT / "docs/limitations.md")
        if row[1].isdigit() and (name := re.search(r"`(\w+)`", row[0]))
    }
    assert said
    assert said == {name: entries.get(name) for name in said}


def test_service_asks_for_what_the_agent_needs() -> None:
    """The systemd unit grants exactly the capabilities of waggle.privileges, and knows the codes
    that trying again does not help."""
    unit = text(ROOT / "deploy/waggle.service")
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    needed = [capability.label for capability in (*LOADING, *RUNNING, *TELLING)]
    assert settings["AmbientCapabilities"].split() == needed
    assert settings["CapabilityBoundingSet"].split() == needed
    final = {error.exit_code for error in _final_errors()}
    assert {int(code) for code in settings["RestartPreventExitStatus"].split()} == final


def test_readme_says_which_kernels_work() -> None:
    """README's support table is what the runs in docs/kernels.md showed."""
    shown = {row[0]: row[1:] for row in tables(ROOT / "docs/kernels.md")}
    flavours = ("socket", "probe", "syscall")
    columns = [
        (kernel, lockdown, {f: shown[f"**`--capture {f}`**"][i] for f in flavours})
        for i, (kernel, lockdown) in enumerate(zip(shown["kernel"], shown["lockdown"], strict=True))
    ]
    expected = [
        [kernel, lockdown, ", ".join(f"`{f}`" for f in flavours if answers[f] == "yes") or "none"]
        for kernel, lockdown, answers in columns
    ]
    rows = [row for row in tables(ROOT / "README.md") if len(row) == 3]
    said = [[row[0].rpartition(" ")[2], row[1], row[2]] for row in rows if "Debian" in row[0]]
    assert said == expected


def test_scripts_can_be_executed() -> None:
    """What the Makefile and CI start by name is executable."""
    for name in (".ci/run", "deploy/install.sh", "deploy/lock.sh", "tests/peers/install.sh"):
        assert (ROOT / name).stat().st_mode & stat.S_IXUSR, name
