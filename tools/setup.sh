#!/usr/bin/env bash
# Makes .venv hold what a make target needs:  tools/setup.sh serve | dev | system
#   serve   the product itself, and data to show     (make demo, make run)
#   dev     the product and every development tool   (everything else)
#   system  Debian packages that some tests use, where this user may install them
# Works from nothing but Python 3.11 or newer; exact versions come from constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

may_install_packages() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    apt-get update -qq || return
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if new_enough "$name"; then echo "$name"; return; fi
    done
    say "Python 3.11 or newer is needed; none was found on PATH. Set PYTHON to one:  make PYTHON=/path/to/python3.12 ..."
    return 1
}

make_venv() {
    local python version
    python=$(find_python)
    version=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    # Debian keeps ensurepip, which puts pip into a new environment, in a package of its own
    if ! "$python" -c 'import ensurepip' 2>/dev/null && may_install_packages; then
        say "installing python$version-venv"
        apt_install "python$version-venv" || true
    fi
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv --clear .venv
    elif "$python" -m venv --clear --without-pip .venv && "$python" -m pip --python .venv/bin/python install -q pip 2>/dev/null; then
        :
    else
        rm -rf .venv
        say "$python cannot make an environment with pip in it. Install its venv package, then run make again:"
        say "    sudo apt-get install python$version-venv"
        return 1
    fi
}

install() {
    new_enough .venv/bin/python || make_venv
    # --group needs pip 25.1; an older one comes with Python 3.11 to 3.13
    .venv/bin/python -m pip install -qq --upgrade 'pip>=25.1'
    say "installing into .venv (a minute or two the first time)"
    .venv/bin/python -m pip install -qq --constraint constraints.txt --editable . "$@"
}

case ${1:-} in
    serve) install --group demo ;;
    dev) install --group dev ;;
    system)
        missing=$(sed 's/#.*//' tools/system-packages.txt | while read -r command package; do
            [ -z "$command" ] || [ -e "$command" ] || command -v "$command" >/dev/null || printf '%s ' "$package"
        done)
        if [ -n "$missing" ] && may_install_packages; then
            # tests start their own servers: none for the whole machine
            [ -d /etc/postgresql-common ] || { mkdir /etc/postgresql-common &&
                echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf; }
            # shellcheck disable=SC2086
            apt_install $missing || say "could not install: $missing"
        elif [ -n "$missing" ]; then
            say "not root on a Debian-like system: tests that need one of these are skipped: $missing"
        fi
        [ -x .tools/azurite/node_modules/.bin/azurite-blob ] ||
            npm install --silent --no-fund --no-audit --no-save --prefix .tools/azurite azurite@3.37.0 >/dev/null 2>&1 ||
            say "could not install azurite: tests of Azure are skipped" ;;
    *) say "usage: tools/setup.sh serve | dev | system"; exit 2 ;;
esac
