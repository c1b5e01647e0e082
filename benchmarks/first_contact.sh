#!/usr/bin/env bash
# Check and measure tenreo on a GPU for the first time: in at most ten minutes, without a network.
#
#   benchmarks/first_contact.sh                          # on the GPU; results in $OUT, or in first_contact/
#   benchmarks/first_contact.sh --device cpu --quick     # the same steps in small, to try the script without a GPU
#   benchmarks/first_contact.sh steps profile            # some parts only
#
# PYTHON chooses the interpreter. Packages that it lacks are installed from wheels in .whl/, if there is such a folder.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONUNBUFFERED=1 TMPDIR=$work
if compgen -G ".whl/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --upgrade --target "$work/site" .whl/*.whl
fi
export PYTHONPATH=$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}
"$python" benchmarks/first_contact.py --out "${OUT:-first_contact}" "$@"
