"""What services are called, and which runtime a program is."""

import os
import platform
import shlex
import struct
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from waggle import runtimes
from waggle.command_names import package_name
from waggle.layout import ProcessMode
from waggle.naming import (
    ServiceName,
    container_of,
    program_name,
    resource_attributes,
    service_name,
    unit_of,
)
from waggle.runtimes import Runtime, allowed_rules, detect, go_build

ID = "0123456789abcdef" * 4


def named(command: str, exe: str = "", cwd: str = "/", **environ: str) -> str:
    words = shlex.split(command)
    found = service_name(exe=exe or words[0], cmdline=words, environ=environ, cwd=cwd)
    return found.name


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("gunicorn shop:app", "shop"),
        ("/usr/bin/python3 /usr/bin/gunicorn shop:app", "shop"),
        ("gunicorn -w 2 -b 0.0.0.0:8000 -k gthread shop.main:app", "shop"),
        ("gunicorn shop:app -c python:conf.gunicorn -b unix:app", "shop"),
        ("gunicorn --bind :80 -k gevent shop.wsgi", "shop"),
        ("gunicorn --reload shop", "shop"),
        ("gunicorn -n checkout shop:app", "checkout"),
        ("gunicorn 'shop:create_app()'", "shop"),
        ("python -m gunicorn shop:app", "shop"),
        ("uvicorn app.main:app --host 0.0.0.0 --port 8000", "app"),
        ("uvicorn --factory src.shop.main:create", "shop"),
        ("python3.12 -m uvicorn stock:app", "stock"),
        ("hypercorn stock:app", "stock"),
        ("granian --interface asgi stock:app", "stock"),
        ("waitress-serve --port=8041 stock:app", "stock"),
        ("daphne shop.asgi:application", "shop"),
        ("flask --app shop run", "shop"),
        ("flask -A src/shop.py run --debug", "shop"),
        ("flask run", "flask"),
        ("celery -A proj worker -l INFO", "proj"),
        ("celery --app=proj.celery worker", "proj"),
        ("fastapi run shop/main.py", "shop"),
        ("uwsgi --http :9090 --module shop.wsgi:app", "shop"),
        ("uwsgi --http :9090 --wsgi-file /srv/shop/wsgi.py", "shop"),
        ("uwsgi --http :9090 --ini /srv/shop/uwsgi.ini", "shop"),
        ("uwsgi --http :9090 /etc/uwsgi/apps-enabled/shop.ini", "shop"),
        ("python /usr/bin/pyuwsgi --http :9090 --module shop.wsgi:app", "shop"),
        ("python -m app", "app"),
        ("python -m shop.server", "shop"),
        ("python -Bm shop", "shop"),
        ("python -X dev -W error -m shop", "shop"),
        ("python -m http.server 8000", "http.server"),
        ("python3 app.py", "app"),
        ("python3 -u checkout.py --port 80", "checkout"),
        ("python3 /srv/shop/app.py", "shop"),
        ("python3 /srv/shop/src/main.py", "shop"),
        ("python3 /app/main.py", "main"),
        ("python3 /home/alice/app.py", "app"),
        ("python3 services/pay/server.py", "pay"),
        ("python /srv/shop/manage.py runserver", "shop"),
        ("python -c 'import time'", "python"),
        ("node server.js", "server"),
        ("node --require ./tracing.js dist/checkout.js", "checkout"),
        ("node -e 'x()'", "node"),
        ("deno run -A shop.ts", "shop"),
        ("bun run shop.ts", "shop"),
        ("java -jar x.jar", "x"),
        ("java -Xmx1g -jar /opt/shop-1.2.3-SNAPSHOT.jar --port=80", "shop"),
        ("java -cp lib/a.jar:lib/b.jar com.acme.Main", "Main"),
        ("java --module-path lib -m com.acme/com.acme.Checkout", "Checkout"),
        ("java Server.java", "Server"),
        ("java -Dotel.service.name=pay -jar x.jar", "pay"),
        ("java -jar x.jar --spring.application.name=pay", "pay"),
        ("dotnet /app/Shop.dll", "Shop"),
        ("ruby checkout.rb", "checkout"),
        ("php -S 0.0.0.0:80 -t public", "php"),
        ("php /srv/shop/artisan serve", "shop"),
        ("/srv/bin/stock -addr :9000", "stock"),
        ("sh /opt/start-shop.sh", "start-shop"),
    ],
)
def test_command_lines(command: str, name: str) -> None:
    """A command line names the service it starts."""
    assert named(command) == name


@pytest.mark.parametrize(
    ("title", "exe", "name"),
    [
        ("nginx: worker process", "/usr/sbin/nginx", "nginx"),
        ("nginx: master process /usr/sbin/nginx -g daemon off;", "/usr/sbin/nginx", "nginx"),
        ("gunicorn: worker [shop:app]", "/usr/bin/python3.11", "shop"),
        ("gunicorn: master [checkout]", "/usr/bin/python3.11", "checkout"),
        ("php-fpm: pool www", "/usr/sbin/php-fpm8.2", "php-fpm"),
        ("puma 6.4.0 (tcp://0.0.0.0:9292) [shop]", "/usr/bin/ruby3.1", "shop"),
        ("puma: cluster worker 0: 12 [shop]", "/usr/bin/ruby3.1", "shop"),
        ("sidekiq 7.1.2 shop [0 of 5 busy]", "/usr/bin/ruby3.1", "shop"),
        ("[celeryd: celery@h:MainProcess] -active- (-A proj worker)", "/usr/bin/python3", "proj"),
        ("next-server (v14.2.3)", "/usr/bin/node", "next-server"),
        ("mailer --all", "/usr/bin/python3.11", "mailer"),
    ],
)
def test_rewritten_titles(title: str, exe: str, name: str) -> None:
    """A process that wrote a title over its arguments is named by it."""
    found = service_name(exe=exe, cmdline=[title], environ={}, cwd="/")
    assert found == ServiceName(name, "command")


def test_project_tools_are_named_by_their_folder() -> None:
    """Files that stand at the root of every project say nothing; the folder does."""
    assert named("python manage.py runserver", cwd="/srv/shop") == "shop"
    assert named("gunicorn wsgi:application", cwd="/srv/shop") == "shop"
    assert named("gunicorn wsgi:application", cwd="/") == "wsgi"
    assert named("python manage.py runserver", DJANGO_SETTINGS_MODULE="pay.settings") == "pay"
    said = {"DJANGO_SETTINGS_MODULE": "config.settings"}
    assert named("python manage.py runserver", cwd="/srv/shop", **said) == "shop"
    assert named("flask run", FLASK_APP="pay") == "pay"
    assert named("java -jar x.jar", SPRING_APPLICATION_NAME="pay") == "pay"


def test_order_of_sources() -> None:
    """Each source gives way to the one before it."""
    environ = {"OTEL_SERVICE_NAME": "a", "OTEL_RESOURCE_ATTRIBUTES": "service.name=b%20c"}
    words = ["/bin/bash"]

    def found(**more: str) -> ServiceName:
        return service_name(
            exe="/bin/bash",
            cmdline=words,
            environ=environ,
            unit=more.get("unit"),
            container_id=more.get("container_id"),
        )

    assert found(unit="u") == ServiceName("a", "environment")
    del environ["OTEL_SERVICE_NAME"]
    assert found(unit="u") == ServiceName("b c", "resource-attributes")
    environ.clear()
    assert found(unit="u") == ServiceName("u", "systemd")
    assert found(container_id=ID) == ServiceName(ID[:12], "container")
    words = ["/bin/bash", "/opt/shop.sh"]
    assert found(container_id=ID) == ServiceName("shop", "command")


def test_packages() -> None:
    """A Node program is called what its package.json says, up to three folders above it."""
    packages = {"/srv/shop": "checkout"}
    common = {"exe": "/usr/bin/node", "environ": {}, "package": packages.get}

    def found(*words: str, cwd: str) -> str:
        return service_name(cmdline=words, cwd=cwd, **common).name  # type: ignore[arg-type]

    assert found("node", "server.js", cwd="/srv/shop") == "checkout"
    assert found("node", "/srv/shop/dist/src/main.js", cwd="/") == "checkout"
    assert found("node", "node_modules/.bin/next", "start", cwd="/srv/shop") == "checkout"
    assert found("next-server (v14.2.3)", cwd="/srv/shop") == "checkout"
    assert found("node", "server.js", cwd="/srv/other") == "server"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b'{"name": "@acme/shop"}', "shop"),
        (b'{"name": "shop"}', "shop"),
        (b'{"name": 7}', None),
        (b'{"name": ""}', None),
        (b"[]", None),
        (b"{", None),
        (b"[" * 100_000, None),
        (b"", None),
    ],
)
def test_package_files(text: bytes, name: str | None) -> None:
    """Whatever a package.json holds, it gives a name or none."""
    assert package_name(text) == name


@pytest.mark.parametrize(
    ("path", "unit", "container"),
    [
        ("/system.slice/shop.service", "shop", None),
        ("/system.slice/system-shop.slice/shop@eu.service", "shop", None),
        ("/system.slice/shop\\x2dapi.service", "shop-api", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", "shop", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x-1.service", None, None),
        ("/system.slice/app-x.service", "app-x", None),
        ("/user.slice/user-1000.slice/user@1000.service", None, None),
        ("/user.slice/user-1000.slice/session-3.scope", None, None),
        ("/system.slice/ssh.service", None, None),
        ("/system.slice/cron.service", None, None),
        ("/system.slice/run-u12.service", None, None),
        ("/system.slice/run-rdeadbeef.service", None, None),
        ("/system.slice/runner.service", "runner", None),
        (f"/system.slice/docker-{ID}.scope", None, ID),
        (f"/docker/{ID}", None, ID),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", None, ID),
        (f"/system.slice/containerd.service/kubepods-burstable-pod1:cri-containerd:{ID}", None, ID),
        (f"/docker/{ID}/system.slice/shop.service", "shop", ID),
        ("/", None, None),
    ],
)
@pytest.mark.parametrize("form", ["0::{}\n", "4:memory:/x\n1:name=systemd:{}\n0::/\n"])
def test_control_groups(form: str, path: str, unit: str | None, container: str | None) -> None:
    """Units and containers are read from control groups of both versions; wrappers do not count."""
    text = form.format(path)
    assert unit_of(text) == unit
    assert container_of(text) == container


def test_resource_attributes() -> None:
    """Pairs are percent-decoded; what cannot be read is dropped as a whole."""
    assert resource_attributes("a=b, c.d = x%2Cy%20z ,") == {"a": "b", "c.d": "x,y z"}
    assert resource_attributes("a=b,c") == {}
    assert resource_attributes("") == {}


PYTHON = "/usr/bin/python3.11"


@pytest.mark.parametrize(
    ("exe", "cmdline", "word", "service", "program"),
    [
        (PYTHON, "python3 /usr/bin/gunicorn shop:app", "python", "shop", "gunicorn"),
        (PYTHON, "gunicorn:_worker_[shop:app]", "python", "shop", "gunicorn"),
        (PYTHON, "python3 -m uvicorn pay:app", "python", "pay", "uvicorn"),
        (PYTHON, "/srv/venv/bin/python /srv/shop/app.py", "python", "shop", "app.py"),
        (PYTHON, "python3 shop.py", "python", "shop", "python"),
        (PYTHON, "python3 -c pass", "python", "python", ""),
        (PYTHON, "some_title", "python", "shop", "python"),
        (PYTHON, "python3 shop.py", "python", "checkout", "shop.py"),
        ("/usr/bin/node", "node dist/server.js", "node", "shop", "server.js"),
        ("/usr/bin/java", "java -jar x.jar", "java", "x", "java"),
        ("/usr/bin/perl", "perl feed.pl", "", "feed", "perl"),
        ("/usr/bin/bash", "bash /srv/feed/run.sh", "", "feed", "run.sh"),
        ("/srv/stock", "./stock", "go", "stock", "go"),
        ("/srv/stock", "./stock", "go", "warehouse", "stock"),
        ("/usr/sbin/nginx", "nginx:_worker_process", "", "nginx", ""),
        ("/usr/sbin/nginx", "nginx:_worker_process", "", "front", "nginx"),
        ("/usr/bin/redis-server", "/usr/bin/redis-server *:6379", "", "redis-server", ""),
        ("", "", "", "unknown_service", ""),
    ],
)
def test_program_name(exe: str, cmdline: str, word: str, service: str, program: str) -> None:
    """What people call the program: its script, its file, what it runs on; never the service."""
    words = [part.replace("_", " ") if ":_" in part else part for part in cmdline.split()]
    assert program_name(exe, words, word, service) == program


@example(["/"], "/", "")
@given(st.lists(st.text(), max_size=6), st.text(), st.text())
def test_any_command_line_has_a_name(words: list[str], exe: str, cwd: str) -> None:
    """Whatever processes call themselves, there is a name and no exception."""
    assert service_name(exe=exe, cmdline=words, environ={}, cwd=cwd).name
    assert program_name(exe, words, "", "a") != "a"


@given(
    st.sampled_from(["python3", "node", "java", "gunicorn", "flask", "uwsgi", "ruby", "celery"]),
    st.lists(st.sampled_from(["-m", "-A", "--app", "-", "--", "a:b", "/", ".", "", "app", "x.py"])),
)
def test_any_launcher_line_has_a_name(program: str, words: list[str]) -> None:
    """No order of arguments makes a launcher nameless."""
    assert service_name(exe="", cmdline=[program, *words], environ={}).name


@given(st.text())
def test_any_control_group(text: str) -> None:
    """Any text is a control group file to us."""
    unit_of(text)
    container_of(text)


# --- runtimes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("exe", "maps", "runtime"),
    [
        ("/usr/bin/python3.11", "", Runtime("cpython", "3.11")),
        ("/opt/cpython-3.12.4-linux/bin/python3.12", "", Runtime("cpython", "3.12.4")),
        ("/x/.pyenv/versions/3.13.1t/bin/python3.13t", "", Runtime("cpython", "3.13.1")),
        ("/usr/bin/python3", "r-xp /usr/lib/libpython3.9.so.1.0\n", Runtime("cpython", "3.9")),
        ("/usr/bin/uwsgi-core", "r /usr/lib/libpython3.11.so.1\n", Runtime("cpython", "3.11")),
        ("/usr/bin/node", "", Runtime("nodejs")),
        ("/x/.nvm/versions/node/v20.1.0/bin/node", "", Runtime("nodejs", "20.1.0")),
        ("/usr/lib/jvm/java-17-openjdk/bin/java", "", Runtime("jvm")),
        ("/opt/tool", "r-xp /opt/jre/lib/server/libjvm.so\n", Runtime("jvm")),
        ("/usr/sbin/nginx", "", Runtime("nginx")),
        ("/usr/sbin/haproxy", "", Runtime("haproxy")),
        ("/usr/sbin/apache2", "", Runtime("httpd")),
        ("/usr/local/apache2/bin/httpd", "", Runtime("httpd")),
        ("/usr/sbin/varnishd", "", Runtime("varnish")),
        ("/usr/bin/ruby3.1", "", Runtime("ruby", "3.1")),
        ("/usr/bin/curl", "r-xp /usr/lib/libcurl.so\n", Runtime("other")),
        ("", "", Runtime("other")),
    ],
)
def test_detect(exe: str, maps: str, runtime: Runtime) -> None:
    """A runtime is told from the executable's name, else from the libraries it has mapped."""
    assert detect(exe, [], lambda: maps, image="/nonexistent") == runtime


def test_java_says_its_version(tmp_path: Path) -> None:
    """A JDK has a file that says which it is; one without it has no version."""
    (tmp_path / "bin").mkdir()
    assert detect("/bin/java", [], str, root=str(tmp_path)) == Runtime("jvm")
    (tmp_path / "release").write_text('IMPLEMENTOR="Acme"\nJAVA_VERSION="17.0.21"\n')
    assert detect("/bin/java", [], str, root=str(tmp_path)) == Runtime("jvm", "17.0.21")


def test_rules() -> None:
    """The thread rule is tried where threads serve one request at a time, the turn rule where it
    was proven, the task rule where contexts can be read."""
    thread, turn = int(ProcessMode.RULE_THREAD), int(ProcessMode.RULE_TURN)
    assert allowed_rules(Runtime("cpython")) == thread | int(ProcessMode.RULE_TASK)
    alone = int(ProcessMode.RULE_ALONE)
    assert allowed_rules(Runtime("pypy")) == thread | alone
    worker = int(ProcessMode.RULE_WORKER)
    named = int(ProcessMode.NAMED_THREADS)
    assert allowed_rules(Runtime("jvm")) == thread | worker | alone | named
    assert allowed_rules(Runtime("other")) == thread | alone
    assert allowed_rules(Runtime("httpd")) == thread | int(ProcessMode.THREAD_READS)
    carried, reads = int(ProcessMode.CARRIED), int(ProcessMode.THREAD_READS)
    assert allowed_rules(Runtime("php")) == thread | alone | reads | carried
    assert allowed_rules(Runtime("ruby")) == worker | alone
    assert allowed_rules(Runtime("haproxy")) == worker | int(ProcessMode.WORKER_TOLD)
    assert allowed_rules(Runtime("nginx")) == turn
    assert allowed_rules(Runtime("go")) == int(ProcessMode.RULE_GOROUTINE)
    assert allowed_rules(Runtime("nodejs")) == turn | int(ProcessMode.PROVE_TURN) | alone
    for name in ("deno", "bun"):
        assert allowed_rules(Runtime(name)) == alone


def elf(
    sections: list[tuple[bytes, bytes]], padding: int = 0, note: bytes = b"", keep: bool = True
) -> bytes:
    """A 64 bit ELF file with these sections; keep=False leaves the section table out."""
    names = b"\0" + b"".join(name + b"\0" for name, _ in [*sections, (b".shstrtab", b"")])
    body, rows = b"", [bytes(64)]
    for name, content in [*sections, (b".shstrtab", names)]:
        at = 64 + 56 + len(note) + len(body)
        rows.append(
            struct.pack(
                "<IIQQQQIIQQ", names.index(name + b"\0"), 1, 0, 0, at, len(content), 0, 0, 1, 0
            )
        )
        body += content
    table_at = 64 + 56 + len(note) + len(body) + padding
    shoff, shnum = (table_at, len(rows)) if keep else (0, 0)
    head = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack(
            "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, shoff, 0, 64, 56, 1, 64, shnum, max(shnum - 1, 0)
        )
    )
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4)
    return head + segment + note + body + bytes(padding) + b"".join(rows)


def build_info(version: str) -> bytes:
    text = version.encode()
    return b"\xff Go buildinf:\x08\x02" + bytes(16) + bytes([len(text)]) + text


GO_NOTE = struct.pack("<III", 4, 4, 4) + b"Go\0\0" + b"abcd"


@pytest.mark.parametrize(
    ("content", "runtime"),
    [
        (elf([(b".go.buildinfo", build_info("go1.22.3"))]), Runtime("go", "1.22.3")),
        (elf([(b".go.buildinfo", build_info("go1.27 X:x"))]), Runtime("go", "1.27")),
        (elf([(b".go.buildinfo", b"\xff Go buildinf:\x08\0" + bytes(32))]), Runtime("go")),
        (elf([(b".text", b"x")]), None),
        (elf([], note=GO_NOTE, keep=False), Runtime("go")),
        (elf([], note=GO_NOTE.replace(b"Go", b"Xo"), keep=False), None),
        (elf([(b".go.buildinfo", build_info("go1.22"))])[:70], None),
        (b"#!/bin/sh\n", None),
        (b"", None),
    ],
)
def test_go_build(content: bytes, runtime: Runtime | None, tmp_path: Path) -> None:
    """Go programs are known by their build information or their note, stripped or not."""
    path = tmp_path / "program"
    path.write_bytes(content)
    assert go_build(str(path)) == runtime


@given(st.binary(max_size=300), st.integers(0, 200))
def test_go_build_of_anything(noise: bytes, at: int) -> None:
    """A damaged file is at worst no Go program."""
    whole = elf([(b".go.buildinfo", build_info("go1.22.3"))])
    descriptor = os.memfd_create("damaged")
    try:
        os.write(descriptor, whole[:at] + noise + whole[at + len(noise) :])
        found = go_build(f"/proc/self/fd/{descriptor}")
        assert found is None or found.name == "go"
    finally:
        os.close(descriptor)
        runtimes._go_build.cache_clear()


def test_node_version_of_others() -> None:
    """What is no Node.js has no version of it, and is no error."""
    for path in ("/bin/sh", "/dev/null", "/nowhere"):
        assert runtimes.node_version(path) is None


def test_python_version() -> None:
    """The exact version stands in the interpreter, or in its library, and nowhere else."""
    library = sysconfig.get_config_var("INSTSONAME")
    folder = sysconfig.get_config_var("LIBDIR")
    files = (os.path.realpath(sys.executable), str(Path(folder) / library))
    assert platform.python_version() in {runtimes.python_version(file) for file in files}
    assert runtimes.python_version("/bin/sh") is None
    assert runtimes.python_version("/dev/null") is None
    assert runtimes.python_version("/nowhere") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0x030B02F0, "3.11.2"), (0x030E00C2, "3.14.0rc2"), (0x030D00A6, "3.13.0a6"), (0, None)],
)
def test_python_version_text(value: int, text: str | None) -> None:
    """PY_VERSION_HEX as platform.python_version() has it."""
    assert runtimes._version_text(value) == text


def test_go_build_is_cheap(tmp_path: Path) -> None:
    """A file of 300 MB costs less than 5 ms of our time: it is not read."""
    path = tmp_path / "large"
    size = 300 << 20
    whole = elf([(b".go.buildinfo", build_info("go1.26"))])
    head, rows = whole[:-192], whole[-192:]
    head = head[:40] + struct.pack("<Q", size) + head[48:]
    with path.open("wb") as file:
        file.write(head)
        file.seek(size)
        file.write(rows)
    costs = []
    for _ in range(5):
        runtimes._go_build.cache_clear()
        began = time.process_time()
        assert go_build(str(path)) == Runtime("go", "1.26")
        costs.append(time.process_time() - began)
    assert min(costs) < 0.005  # a machine under load makes all of it dearer at times


def test_this_interpreter() -> None:
    """The interpreter that runs this test is recognised with its version."""
    found = detect(str(Path("/proc/self/exe").readlink()), [], Path("/proc/self/maps").read_text)
    assert found.name == "cpython"
    assert (found.version or "").startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")


def test_languages() -> None:
    """A runtime we know has a language, and what we do not know is not given one."""
    assert runtimes.language(Runtime("cpython")) == "python"
    assert runtimes.language(Runtime("other")) == "generic"
