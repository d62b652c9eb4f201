"""Functions of TLS libraries and their layout, read out of code."""

import ctypes.util
import shutil
import subprocess
from pathlib import Path

import pytest

from waggle import elf
from waggle.probes.tls.library import Layout, read_library
from waggle.probes.tls.places import may_have_tls

SOURCE = """
typedef unsigned long size_t;
struct bio { void *context; void *method; void *c1, *c2; void *arg; int init, shutdown;
             int flags, retry_reason, num; void *ptr; };
struct ssl { int version; void *method; struct bio *rbio, *wbio; };
__attribute__((noinline)) static int inner(struct ssl *s, void *b, size_t n, size_t *out)
{ volatile int deep[40]; for (int i = 0; i < 40; i++) deep[i] = n; *out = n;
  __asm__ volatile("" ::: "rbx", "r12", "r13"); return s->version + deep[n & 31]; }
int SSL_read(struct ssl *s, void *b, int n)
{ size_t out; int r = n < 0 ? -1 : inner(s, b, n, &out); return r > 0 ? (int)out : r; }
int SSL_write(struct ssl *s, void *b, int n)
{ size_t out; int r = n < 0 ? -1 : inner(s, b, n, &out); return r > 0 ? (int)out : r; }
#ifdef EX
int SSL_read_ex(struct ssl *s, void *b, size_t n, size_t *out)
{ int r = inner(s, b, n, out); return r < 0 ? 0 : r; }
int SSL_write_ex(struct ssl *s, void *b, size_t n, size_t *out)
{ int r = inner(s, b, n, out); return r < 0 ? 0 : r; }
#endif
int SSL_do_handshake(struct ssl *s) { return s->version; }
void SSL_free(struct ssl *s) { s->version = 0; }
#ifdef ACCESSORS
#ifdef KINDS
extern struct ssl *layer_of(struct ssl *s);
void *SSL_get_rbio(struct ssl *s)
{ if (!s) return 0;
  if (s->version & 0x80) { struct ssl *l = layer_of(s); return l ? l->rbio : 0; }
  return s->version ? 0 : s->rbio; }
#else
void *SSL_get_rbio(struct ssl *s) { return s->rbio; }
#endif
void *BIO_get_data(struct bio *b) { return b->ptr; }
int BIO_method_type(struct bio *b) { return *(int *)b->method; }
int BIO_test_flags(struct bio *b, int f) { return b->flags & f; }
#endif
"""


def library(folder: Path, *flags: str) -> Path:
    compiler = shutil.which("clang-14") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    source, made = folder / "tls.c", folder / "libtls.so"
    source.write_text(SOURCE)
    command = [compiler, "-O2", "-fPIC", "-shared", "-fomit-frame-pointer", *flags]
    subprocess.run([*command, "-o", str(made), str(source)], check=True)
    return made


def enters(path: Path) -> list[tuple[str, bool]]:
    found = read_library(str(path))
    assert found is not None
    return [(hook.enter, hook.counts) for hook in found.hooks]


def test_one_function_behind_two(tmp_path: Path) -> None:
    """Where both forms of a function call one, that is hooked, once."""
    made = library(tmp_path, "-DEX")
    assert enters(made)[:2] == [("tls_read", False), ("tls_write", False)]


def test_functions_without_their_new_forms(tmp_path: Path) -> None:
    """OpenSSL 1.1.0 and BoringSSL have one form, which returns how many bytes."""
    assert enters(library(tmp_path))[:2] == [("tls_read", True), ("tls_write", True)]


def test_layout_is_read_from_accessors(tmp_path: Path) -> None:
    """What the accessors load is where an SSL and a BIO keep it."""
    found = read_library(str(library(tmp_path, "-DEX", "-DACCESSORS")))
    assert found is not None
    assert found.layout == Layout(reader=16, method=8, number=56, data=64)


def test_an_accessor_may_look_at_the_kind_of_object_first(tmp_path: Path) -> None:
    """What an accessor of OpenSSL 3.2 or newer loads first is not what it returns."""
    found = read_library(str(library(tmp_path, "-DEX", "-DACCESSORS", "-DKINDS")))
    assert found is not None
    assert found.layout == Layout(reader=16, method=8, number=56, data=64)


def test_no_layout_is_guessed(tmp_path: Path) -> None:
    """Without accessors nothing is known of where a descriptor is kept."""
    found = read_library(str(library(tmp_path, "-DEX")))
    assert found is not None
    assert found.layout is None


HIDDEN = ("-DEX", "-DACCESSORS", "-fvisibility=hidden")


def test_names_that_are_not_exported(tmp_path: Path) -> None:
    """A library within another file is found by the table for debuggers, its layout too."""
    exported = read_library(str(library(tmp_path, "-DEX", "-DACCESSORS")))
    hidden = read_library(str(library(tmp_path, *HIDDEN)))
    assert exported is not None
    assert hidden is not None
    assert [hook.enter for hook in hidden.hooks] == [hook.enter for hook in exported.hooks]
    assert hidden.layout == exported.layout


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_names_cut_by_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """However the table of names is read, all of them are found."""
    monkeypatch.setattr(elf, "_PIECE", piece)
    found = read_library(str(library(tmp_path, *HIDDEN)))
    assert found is not None
    assert found.layout is not None
    assert len(found.hooks) == 4


def test_tables_beyond_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is too large is not looked through."""
    monkeypatch.setattr(elf, "_TABLE_MAX", 64)
    assert read_library(str(library(tmp_path, *HIDDEN))) is None


def test_stripped_of_its_names(tmp_path: Path) -> None:
    """Without any name nothing is guessed."""
    assert read_library(str(library(tmp_path, *HIDDEN, "-s"))) is None


def test_two_functions_of_one_name(tmp_path: Path) -> None:
    """Which of two functions of the same name is meant nobody knows: neither is."""
    other = tmp_path / "other.c"
    other.write_text("static int SSL_read(void) { return 1; } int (*kept)(void) = SSL_read;")
    made = library(tmp_path, *HIDDEN, str(other))
    assert read_library(str(made)) is None


def test_which_files_are_looked_into() -> None:
    """A file's own name tells, and of Python's packages all of the path within them."""
    packages = "/opt/crypto/venv/lib/python3.11/site-packages"
    assert may_have_tls("/usr/lib/x86_64-linux-gnu/libssl.so.3")
    assert may_have_tls(f"{packages}/cryptography/hazmat/bindings/_rust.abi3.so")
    assert may_have_tls(f"{packages}/curl_cffi/_wrapper.abi3.so")
    assert not may_have_tls("/opt/crypto/lib/libc.so.6")
    assert not may_have_tls(f"{packages}/numpy/core.so")


def test_other_libraries_are_none() -> None:
    """What exports no SSL_read is no TLS library."""
    name = ctypes.util.find_library("c")
    assert name is not None
    assert read_library(f"/lib/x86_64-linux-gnu/{name}") is None
