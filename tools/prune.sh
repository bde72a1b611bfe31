#!/usr/bin/env bash
# Takes out of an environment what no server and no job ever reads:  tools/prune.sh /opt/prediction-api
# Tests of libraries, what their compilers need, symbols for debuggers, and parts of Arrow that nothing here links to.
# `make image-check` then serves, packages and scores with what is left.
set -euo pipefail
packages=$(echo "$1"/lib/python3*/site-packages)

# numpy.testing, which scipy imports, reads one module out of a directory of tests
find "$packages" -depth -type d -name tests ! -path '*/numpy/_core/tests' -exec rm -rf {} +
find "$packages/numpy/_core/tests" -mindepth 1 ! -name '__init__.py' ! -name '_natype.py' -delete

find "$packages" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -name '*.hpp' -o -name '*.a' \
    -o -name '*.c' -o -name '*.cpp' \) -delete
rm -rf "$packages"/sklearn/datasets/{data,images,descr}

# Languages that nothing here is written in
find "$packages/pygments/lexers" -type f ! -path '*/__pycache__/*' \
    ! -name '__init__.py' ! -name '_mapping.py' ! -name 'python.py' ! -name 'special.py' -delete
rm -rf "$packages/pygments/lexers/__pycache__"

# Amazon describes all of its services: S3 is used, and those that sign in to it
[ ! -d "$packages/botocore" ] || find "$packages/botocore/data" -mindepth 1 -maxdepth 1 -type d \
    ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +

# Microsoft's driver for other versions of Python and other systems, and its bulk copy, which is a library of its own
if [ -d "$packages/mssql_python" ]; then
    version=$(basename "$(dirname "$packages")")
    find "$packages/mssql_python" -name 'ddbc_bindings.cp*' ! -name "ddbc_bindings.cp${version//[!0-9]/}*" -delete
    find "$packages/mssql_python_odbc/libs/linux" -mindepth 1 -maxdepth 1 ! -name debian_ubuntu -exec rm -rf {} +
    rm -rf "$packages"/mssql_py_core "$packages"/mssql_python_rs-*.dist-info
fi

# Arrow's own access to stores and its servers: ours goes through SDKs
cd "$packages/pyarrow"
rm -rf include src
rm -f libarrow_{flight,python_flight,s3}.so* _{flight,s3fs}.*.so
for library in *.so.[0-9]*.[0-9]*.[0-9]*; do  # a wheel holds no links, so it holds the same file three times
    [ -e "$library" ] || continue
    for other in "${library%.*.*}" "${library%%.so*}.so"; do
        if [ "$other" != "$library" ] && cmp -s "$library" "$other"; then ln -sf "$library" "$other"; fi
    done
done

find "$packages" -type f -name '*.so*' -size +200k -exec strip --strip-unneeded {} +
