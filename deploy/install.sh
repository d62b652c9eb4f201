#!/bin/sh
# Installs the Debian packages that Waggle's Makefile needs and this machine lacks.
# When nothing is missing it changes nothing, asks nobody, and takes milliseconds.
#
#   deploy/install.sh build      compile the BPF object, make .venv, run the agent
#   deploy/install.sh check      the same, and what linters and unit tests need
#   deploy/install.sh give-back  after `sudo make ...`: files here belong to who called sudo
#
# As root, or through sudo where there is one.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
packages=

# Adds package $2 when the file or program $1 is missing.
want() {
    case "$1" in
    /*) [ -e "$1" ] && return 0 ;;
    *) { command -v "$1" || [ -x "/usr/sbin/$1" ]; } >/dev/null 2>&1 && return 0 ;;
    esac
    packages="$packages $2"
}

want_for_build() {
    want "${CLANG:-clang-14}" clang-14
    want /usr/include/bpf/bpf_helpers.h libbpf-dev
    want /usr/include/linux/bpf.h linux-libc-dev
    want /etc/ssl/certs/ca-certificates.crt ca-certificates
    want "$python" python3
    ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
    "$ldconfig" -p | grep -q 'libbpf\.so\.1 ' || packages="$packages libbpf1"
    # Debian's Python comes without the part that makes a virtual environment complete.
    [ "$python" != /usr/bin/python3 ] ||
        /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3-venv"
}

want_for_check() {
    want_for_build
    want bpftool bpftool
    want gcc gcc
    want /usr/include/stdlib.h libc6-dev
    want openssl openssl
    # Tests build networks of their own, one of them with a NAT.
    want ip iproute2
    want nft nftables
    want /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.asan-x86_64.a libclang-rt-14-dev
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "install.sh: missing Debian packages:$packages; install them as root, then go on" >&2
        exit 1
    fi
}

install_packages() {
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null 2>&1 || {
        echo "install.sh: no apt-get here; install what Debian 12 calls:$packages" >&2
        exit 1
    }
    echo "install.sh: installing$packages"
    as_root apt-get -qq update
    # shellcheck disable=SC2086 # words on purpose
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends $packages </dev/null
}

give_back() {
    [ "$(id -u)" = 0 ] && [ "${SUDO_UID:-0}" != 0 ] || return 0
    find "$root" -xdev -user 0 -exec chown -h "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" {} +
}

python=${PYTHON:-/usr/bin/python3}
case "${1:-}" in
build)
    want_for_build
    install_packages
    ;;
check)
    want_for_check
    install_packages
    ;;
give-back) give_back ;;
*)
    echo "usage: install.sh build|check|give-back" >&2
    exit 2
    ;;
esac
