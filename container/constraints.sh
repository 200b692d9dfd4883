#!/bin/sh
# Pin every package of an image: resolve anew, and write container/constraints-VARIANT.txt.
#
#     container/constraints.sh cpu|gpu [--check]
#
# --check resolves within the pins that are there, and writes nothing: do they still fit together, and can they be had?
# Needs Python 3.11, that of the image, as $PYTHON or python3. Nothing is installed.
set -eu
cd "$(dirname "$0")/.."
variant=${1:?expected cpu or gpu}
python=${PYTHON:-python3}
file=container/constraints-$variant.txt
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "expected Python 3.11, which the image has")'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" container/requirements.py "$variant" fiji > "$work/requirements.txt"
set -- --requirement "$work/requirements.txt" ${2:+--constraint "$file"}
"$python" -m pip install --quiet --dry-run --ignore-installed --only-binary :all: --report "$work/report.json" "$@"
"$python" - "$work/report.json" > "$work/pins.txt" <<'PYTHON'
import json
import re
import sys

with open(sys.argv[1], encoding="utf-8") as report:
    packages = [package["metadata"] for package in json.load(report)["install"]]
pins = {re.sub("[-_.]+", "-", package["name"]).lower(): package["version"] for package in packages}
if "tensorflow-cpu" in pins:  # processors without that wheel take the other one
    pins["tensorflow"] = pins["tensorflow-cpu"]
for name, version in sorted(pins.items()):
    print(f"{name}=={version}")
PYTHON
if [ "$#" -gt 2 ]; then
    # Whatever was resolved must be pinned, and to that version: nothing floats.
    if grep -vxF -f "$file" "$work/pins.txt"; then
        echo "the packages above are not pinned in $file; make it anew: container/constraints.sh $variant" >&2
        exit 1
    fi
    echo "$file: $(grep -c == "$work/pins.txt") packages fit together"
else
    { echo "# Made by: container/constraints.sh $variant"; cat "$work/pins.txt"; } > "$file"
    echo "$file: $(grep -c == "$file") packages"
fi
