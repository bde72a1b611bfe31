#!/usr/bin/env bash
# Builds the image and tries it, also where there is neither a Docker engine nor an image registry:
#   tools/image.sh build [full|slim]    the image, and its size
#   tools/image.sh check [full|slim]    the same, and tests/image against containers of it
#   tools/image.sh clean                what the two left on this machine
#
# With a Docker engine that answers, the engine does all of it. Without one the Dockerfile's steps run in a chroot
# (buildah) on a base made of Debian packages (mmdebstrap), and containers run under podman and runc; that needs root.
# Where neither works it says so in capitals and ends with status 0, or 3 with IMAGE_REQUIRED=1.
set -euo pipefail
cd "$(dirname "$0")/.."

ACTION=${1:-check}
VARIANT=${2:-full}
SUITE=${SUITE:-trixie}
STORE=/var/tmp/prediction-api-image.$(pwd | cksum | cut -d' ' -f1)
TAG=${TAG:-portable-prediction-server:$VARIANT}
[ "$VARIANT" = full ] && EXTRAS=${EXTRAS:-all} || EXTRAS=${EXTRAS:-signing,lightgbm,xgboost}

say() { printf '%s\n' "$*" >&2; }

give_up() {
    say ""
    say "  ***  THE IMAGE IS NOT CHECKED ON THIS MACHINE: $*"
    say "  ***  Everything else can be; tests/image/test_files.py looks at the Dockerfile and its neighbours as text."
    say ""
    [ "${IMAGE_REQUIRED:-}" = 1 ] && exit 3 || exit 0
}

have_engine() { command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1; }

have_parts() {
    command -v podman >/dev/null && command -v buildah >/dev/null && command -v runc >/dev/null &&
        command -v mmdebstrap >/dev/null
}

install_parts() {
    have_parts && return
    command -v apt-get >/dev/null || return
    say "installing podman, buildah, runc and mmdebstrap"
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends podman buildah runc mmdebstrap >/dev/null
}

choose_driver() {  # overlay where the kernel lets us; vfs copies every layer
    local t
    t=$(mktemp -d "$STORE/try.XXXX")
    mkdir "$t"/{lower,upper,work,merged}
    if mount -t overlay overlay -o "lowerdir=$t/lower,upperdir=$t/upper,workdir=$t/work" "$t/merged" 2>/dev/null; then
        umount "$t/merged"
        echo overlay
    else
        echo vfs
    fi
    rm -rf "$t"
}

# A stand-in for the base image: the same Debian, made of its packages, trusting the authorities that this machine trusts.
import_base() {
    podman "${PLACES[@]}" image exists "$BASE" && return
    say "making a base of Debian $SUITE"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates \
        --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs' \
        --customize-hook='rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
        "$SUITE" "$STORE/base.tar" || give_up "no base can be made of Debian packages"
    podman "${PLACES[@]}" import --quiet "$STORE/base.tar" "$BASE" >/dev/null
    rm "$STORE/base.tar"
}

build() {
    local revision arguments
    revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
    arguments=(--build-arg "EXTRAS=$EXTRAS" --build-arg "REVISION=$revision" --tag "$TAG" .)
    if have_engine; then
        docker build ${BASE:+--build-arg "BASE=$BASE"} "${arguments[@]}"
        ENGINE="docker"
        return
    fi
    [ "$(id -u)" = 0 ] || give_up "there is no Docker engine, and building without one needs root"
    install_parts && have_parts || give_up "there is no Docker engine, and podman, buildah, runc or mmdebstrap cannot be installed"
    mkdir -p "$STORE"
    PLACES=(--storage-driver "$(choose_driver)" --root "$STORE/store" --runroot "$STORE/run")
    BASE=localhost/debian-$SUITE:stand-in
    import_base
    # --format docker keeps HEALTHCHECK; --isolation chroot needs no runtime and no cgroups
    buildah "${PLACES[@]}" bud --quiet --layers --format docker --isolation chroot --pull-never --network host \
        --build-arg "BASE=$BASE" "${arguments[@]}" >"$STORE/build.log" 2>&1 || {
        tail -n 40 "$STORE/build.log" >&2
        exit 1
    }
    ENGINE="podman ${PLACES[*]} --runtime $(command -v runc)"
    # shellcheck disable=SC2086
    $ENGINE run --rm "${LIMITS[@]}" "$TAG" --version >/dev/null || give_up "the image was built, but no container can be started"
}

# A root without CAP_SYS_RESOURCE cannot raise limits, which podman does unless told not to.
LIMITS=(--ulimit nofile=4096:4096 --ulimit nproc=4096:4096)

case $ACTION in
    build | check)
        began=$SECONDS
        build
        # shellcheck disable=SC2086
        size=$($ENGINE image inspect --format '{{.Size}}' "$TAG")
        say "$TAG ($EXTRAS): $((size / 1000000)) MB unpacked, built in $((SECONDS - began)) s"
        [ "$ACTION" = build ] && exit
        IMAGE_ENGINE=$ENGINE IMAGE=$TAG IMAGE_VARIANT=$VARIANT IMAGE_BYTES=$size \
            "${PYTHON:-.venv/bin/python}" -m pytest tests/image -q --timeout 240 ;;
    clean)
        awk -v store="$STORE" 'index($2, store) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
        rm -rf "$STORE" ;;
    *) say "usage: tools/image.sh build|check|clean [full|slim]"; exit 2 ;;
esac
