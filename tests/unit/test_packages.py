"""waggle.packages: names in the files beside a program; and that naming asks for them."""

import io
import os
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.naming import service_name
from waggle.packages import JAR_LIMIT, jar_name, nginx_name
from waggle.procfs import ProcessFacts, ProcFs

SPRING = "org.springframework.boot.loader.launch.JarLauncher"


def jar(manifest: str, *, how: int = zipfile.ZIP_DEFLATED, first: str = "META-INF/") -> bytes:
    """As the tools of Java write it: the folder, the manifest, and what else there is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr(first, b"")
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\n" + manifest)
        archive.writestr("BOOT-INF/classes/application.properties", b"." * 100_000)
    return file.getvalue()[:JAR_LIMIT]


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ("Implementation-Title: checkout\r\n", "checkout"),
        (f"Main-Class: {SPRING}\r\nStart-Class: com.acme.ShopApplication\r\n", "Shop"),
        (f"Start-Class: a.Shop\r\nMain-Class: {SPRING}\nImplementation-Title: pay\n", "pay"),
        (f"Main-Class: {SPRING}\r\n", None),
        ("Main-Class: com.acme.Stock\r\n", "Stock"),
        ("Main-Class: com.acme.Main\r\n", None),
        ("Start-Class: com.acme.Appli\r\n cation\r\n", None),
        (
            "Implementation-Title: a title that is so long that the line was bro\r\n ken\r\n",
            "a title that is so long that the line was broken",
        ),
        ("\r\nName: a/b/C.class\r\nImplementation-Title: of a class\r\n", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_manifests(manifest: str, name: str | None, how: int) -> None:
    """The title, else the class that is started, but not the one that starts it."""
    assert jar_name(jar(manifest, how=how)) == name


def cut(at: int) -> bytes:
    whole = bytearray(jar("Implementation-Title: checkout\r\n"))
    whole[at // 2] ^= 0x55
    return bytes(whole[: max(at, 60)])


@given(st.one_of(st.binary(max_size=200), st.integers(0, 400).map(cut)))
def test_no_jars(head: bytes) -> None:
    """Whatever the file holds, there is a name that can be shown or none."""
    name = jar_name(head)
    assert name is None or (name.isprintable() and 0 < len(name) <= 128)


def named(files: dict[str, str]) -> str | None:
    return nginx_name(
        "/etc/nginx/nginx.conf",
        lambda path: files.get(path, "").encode(),
        lambda pattern: sorted(path for path in files if fnmatch(path, pattern)),
    )


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("http { server { listen 80; server_name shop.example; } }", "shop.example"),
        ("server{server_name www.shop.example shop.example;}", "shop.example"),
        ('server {\n\tserver_name "shop.example" _ localhost 10.0.0.7 [::1];\n}', "shop.example"),
        ("server { server_name a.example; } server { server_name b.example; }", None),
        ("server { # server_name old.example;\n server_name shop.example; }", "shop.example"),
        (r"server { server_name ~^(.+)\.example$ *.example .a.example a.* $host; }", None),
        ("server { server_name_in_redirect on; }", None),
        ("", None),
    ],
)
def test_server_names(config: str, name: str | None) -> None:
    """nginx has the name that its configuration has, when that is one name."""
    assert named({"/etc/nginx/nginx.conf": config}) == name


def test_includes() -> None:
    """What a configuration includes counts, once, whoever includes whom."""
    site = "server { server_name shop.example; include /etc/nginx/nginx.conf; }"
    files = {
        "/etc/nginx/nginx.conf": "http { include mime.types; include sites-enabled/*; }",
        "/etc/nginx/sites-enabled/shop": site,
    }
    assert named(files) == "shop.example"
    files["/etc/nginx/sites-enabled/pay"] = "server { server_name pay.example; }"
    assert named(files) is None


def test_processes(tmp_path: Path) -> None:
    """A process's own files name it: a jar called app.jar, and nginx through links to its sites."""
    (tmp_path / "app.jar").write_bytes(jar("Implementation-Title: checkout\r\n"))
    (tmp_path / "site").write_text("server { server_name shop.example; }")
    (tmp_path / "on").mkdir()
    (tmp_path / "on" / "link").symlink_to("../site")
    (tmp_path / "nginx.conf").write_text("http { include on/*; include */*; }")
    facts = ProcessFacts(tgid=os.getpid(), start_ns=1, cwd=str(tmp_path))
    source = ProcFs()

    def found(exe: str, *words: str) -> str:
        return service_name(
            exe=exe,
            cmdline=words,
            environ={},
            cwd=facts.cwd,
            package=lambda path: source.package_name(facts, path),
        ).name

    assert found("/usr/bin/java", "java", "-Xmx1g", "-jar", "app.jar") == "checkout"
    assert found("/usr/bin/java", "java", "-jar", "shop-1.2.jar") == "shop"
    assert found("/usr/bin/java", "java", "-jar", "/nowhere/app.jar") == "app"
    title = f"nginx: master process /usr/sbin/nginx -p {tmp_path} -c nginx.conf"
    assert found("/usr/sbin/nginx", title) == "shop.example"
    assert found("/usr/sbin/nginx", "nginx", "-c", f"{tmp_path}/nginx.conf") == "shop.example"
    assert found("/usr/sbin/nginx", "nginx", "-c", "/nowhere/nginx.conf") == "nginx"
