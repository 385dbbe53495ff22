#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0: `--dist loadgroup` ignores the mark `xdist_group`, without a warning.
#
# Expected: with `--dist loadgroup`, tests of one group run on one worker, and the report shows the group's name behind
# the test's (`test_a.py::test_it[0]@one`). That is so with pytest 8.4.2. With pytest 9.2.0 the same xdist spreads the
# tests of the group over all workers: xdist writes the name with the group into the item's attribute `_nodeid`, which
# this pytest no longer reads.
# Matters for: tests/conftest.py, which therefore keeps files together with its own scheduler on `--dist loadfile`.
# Output on 2026-11-30, Python 3.11 (pytest, names with a group, workers used):
#   8.4.2 24 1
#   9.2.0 0 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
mkdir "$folder/tests"
cat >"$folder/tests/test_a.py" <<'PYTHON'
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(12))
def test_it(number):
    time.sleep(0.05)
PYTHON
cp "$folder/tests/test_a.py" "$folder/tests/test_b.py"
for version in 8.4.2 9.2.0; do
    "$folder/venv/bin/pip" install -q --disable-pip-version-check "pytest==$version" pytest-xdist==3.8.0 2>/dev/null
    (cd "$folder/tests" && "$folder/venv/bin/python" -m pytest -n 2 --dist loadgroup -v -p no:cacheprovider) >"$folder/said"
    grep -q "24 passed" "$folder/said"
    names=$(grep -c "PASSED.*@one" "$folder/said" || true)
    workers=$(grep PASSED "$folder/said" | grep -o '\[gw[01]\]' | sort -u | wc -l)
    echo "$version $names $workers" | tee -a "$folder/seen"
done
diff <(printf '8.4.2 24 1\n9.2.0 0 2\n') "$folder/seen"
