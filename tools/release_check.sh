#!/usr/bin/env bash
# What is looked at before a release:  tools/release_check.sh
# Wheel and sdist are built, the wheel from the sdist; both hold what they should and nothing else; the wheel is installed
# into an environment of its own, far from the sources, and the tests run against what was installed; then licences,
# known faults, docs, and the image as far as this machine can build it.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$PWD/.venv/bin/python}
WORK=$(mktemp -d /var/tmp/prediction-api-release.XXXX)
trap 'rm -rf "$WORK"' EXIT
chmod 755 "$WORK"  # some tests give up being root
TESTS=${RELEASE_TESTS:-tests}

step() { printf '\n== %s\n' "$*"; }

step "build"
"$PYTHON" -m build --outdir "$WORK/dist" . >"$WORK/build.log" 2>&1 || { tail -n 30 "$WORK/build.log"; exit 1; }
wheel=$(echo "$WORK"/dist/*.whl)
sdist=$(echo "$WORK"/dist/*.tar.gz)
ls -l "$WORK/dist"

step "contents"
"$PYTHON" tools/release_contents.py "$wheel" "$sdist"

step "install the wheel without the sources"
mkdir "$WORK/tests"
"$PYTHON" -m venv "$WORK/venv"
"$WORK/venv/bin/python" -m pip install -q --upgrade 'pip>=25.1'
"$WORK/venv/bin/python" -m pip install -q --constraint constraints.txt "$wheel[all]" --group test --group demo
"$WORK/venv/bin/python" -m pip check

step "test what was installed"
# The tests of the sdist, in a directory that has no package of ours to import by accident.
tar -xzf "$sdist" -C "$WORK/tests" --strip-components 1
rm -rf "$WORK"/tests/{prediction_api,batch,model_repository}
[ ! -d .tools ] || ln -s "$PWD/.tools" "$WORK/tests/.tools"
(
    cd "$WORK/tests"
    "$WORK/venv/bin/python" -P -c 'import batch, model_repository, prediction_api as p
for package in (batch, model_repository, p):
    assert "site-packages" in package.__file__, package.__file__
from batch.jdbc.bridge_jar import JAR, _is_current
assert _is_current(JAR), "the JDBC bridge was not compiled into the wheel"'
    # shellcheck disable=SC2086
    PATH=$WORK/venv/bin:$PATH "$WORK/venv/bin/python" -m pytest -q -n 2 --dist loadfile -p no:cacheprovider $TESTS
)

step "licences"
"$WORK/venv/bin/python" tools/dependencies.py licences --prefix "$WORK/venv" | tee "$WORK/licences"
if grep -q ': not declared$' "$WORK/licences"; then
    echo "these do not say under which licence they are"
    exit 1
fi

step "known faults"
"$WORK/venv/bin/python" tools/dependencies.py audit --prefix "$WORK/venv"

step "docs"
"$PYTHON" -m mkdocs build --strict --quiet --site-dir "$WORK/site"

step "images"
for variant in full slim; do PYTHON=$PYTHON tools/image.sh check $variant; done

echo
echo "ready: $(basename "$wheel"), $(basename "$sdist")"
