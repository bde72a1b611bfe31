#!/usr/bin/env bash
# Takes out of an environment what no server and no job ever reads:  tools/prune.sh /opt/prediction-api
# Tests of libraries, what their compilers need, and parts of Arrow that nothing here links to. `make image-check` then
# serves, explains and scores with what is left.
set -euo pipefail
packages=$(echo "$1"/lib/python3*/site-packages)

# numpy.testing, which scipy imports, reads one module out of a directory of tests
find "$packages" -depth -type d -name tests ! -path '*/numpy/_core/tests' -exec rm -rf {} +
find "$packages/numpy/_core/tests" -mindepth 1 ! -name '__init__.py' ! -name '_natype.py' -delete

find "$packages" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' -o -name '*.hpp' \
    -o -name '*.a' -o -name '*.c' -o -name '*.cpp' \) -delete
rm -rf "$packages"/pyarrow/include "$packages"/pyarrow/src "$packages"/numpy/f2py "$packages"/sklearn/datasets/{data,images,descr}
rm -f "$packages"/pyarrow/{libarrow_flight,libarrow_python_flight,libarrow_substrait}.so* "$packages"/pyarrow/_{flight,substrait}.*.so
