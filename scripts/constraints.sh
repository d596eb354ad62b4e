#!/usr/bin/env bash
# Pin anew every package of every environment: names, versions and hashes, for all platforms and Python 3.11 or newer.
# The widest set comes first and the others follow it, so that one version of a package is used everywhere.
# Needs uv on PATH (`make constraints` brings the pinned one). Arguments go to uv, e.g. --upgrade-package numpy.
set -euo pipefail
cd "$(dirname "$0")/.."

pin() { # FILE OPTION...
  local file=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --output-file "constraints/$file" "$@"
}

pin test.txt pyproject.toml --extra report --extra train --extra onnx --extra operator --extra distributed --extra deepspeed \
  --extra serve \
  --group build --group lint --group test "$@"
pin run.txt pyproject.toml --extra report --constraints constraints/test.txt "$@"
pin operator.txt pyproject.toml --extra operator --constraints constraints/test.txt "$@"
pin training.txt pyproject.toml --extra report --extra train --extra distributed --extra serve --extra operator \
  --constraints constraints/test.txt "$@"
pin go.txt --group go --constraints constraints/test.txt "$@"
pin build.txt --group build --constraints constraints/test.txt "$@"
