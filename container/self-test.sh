#!/bin/sh
# Does the tool work here, as this user, on this file system, without a network? A line a check: ok, skip or FAIL. Runs in
# every image as /opt/densecell/self-test, and is the %test of Singularity.def. Needs a writable temporary folder only.
set -u

work=$(mktemp -d "${TMPDIR:-/tmp}/densecell-self-test.XXXXXX") || exit 3
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 3
python=${DENSECELL_PYTHON:-/opt/densecell/venv/bin/python}
failed=0

verdict() { # NAME EXPECTED FOUND [WHAT MUST BE THERE]
    if [ "$2" = "$3" ] && { [ -z "${4:-}" ] || [ -s "$4" ]; }; then
        echo "ok	$1"
    else
        echo "FAIL	$1: expected exit code $2${4:+ and $4}, got $3; the tool said:"
        sed 's/^/	/' said
        failed=1
    fi
}

check() { # NAME EXPECTED-CODE FILE-OR-'' COMMAND...
    name=$1 expected=$2 file=$3
    shift 3
    "$@" > said 2>&1
    verdict "$name" "$expected" "$?" "$file"
}

has() { # VERB [SUBCOMMAND]: does this version have it?
    densecell-batch "$@" --help >/dev/null 2>&1
}

stack() { # TARGET REPEATS: the sample stack, that many times along z
    "$python" -P - "$1" "$2" <<'PYTHON'
import sys

import numpy as np
import tifffile

from densecell_batch.data import SAMPLE

target, repeats = sys.argv[1:]
volume = np.tile(tifffile.imread(SAMPLE)[:, :128, :128], (int(repeats), 1, 1))
tifffile.imwrite(target, volume, imagej=True, metadata={"axes": "ZYX"})
PYTHON
}

# What runs quickly enough to be done in every image.
quick="--precision float32 --no-preview --memory 1G"

check "doctor" 0 said densecell-batch doctor
for model in fly-vnc fly-vnc-2d3d fly-vnc-fast; do
    check "$model gives what it gave when it was made" 0 "" densecell-batch models verify "$model"
done
check "demo" 0 demo/fly-vnc-sample_labels.tif densecell-batch demo -o demo

stack good.tif 1 && echo "no stack" > bad.tif
# shellcheck disable=SC2086 # words
check "a bad stack fails alone: 1" 1 out/good_labels.tif densecell-batch segment bad.tif good.tif -o out $quick
check "misuse: 2" 2 "" densecell-batch segment good.tif
check "no such model: 3" 3 "" densecell-batch segment good.tif -o out --model nosuch

# Stopped in the middle, and continued.
stack long.tif 4
# shellcheck disable=SC2086
densecell-batch segment long.tif -o stopped --tile 5,64,64 $quick > said 2>&1 &
pid=$!
for _ in $(seq 600); do
    set -- stopped/.*.parts-*/piece-*.npz
    if [ -e "$1" ] || ! kill -0 "$pid" 2>/dev/null; then break; fi
    sleep 0.1
done
kill -TERM "$pid" 2>/dev/null
wait "$pid"
verdict "SIGTERM: 75" 75 $?
# shellcheck disable=SC2086
check "and the same command goes on" 0 stopped/long_labels.tif \
    densecell-batch segment long.tif -o stopped --tile 5,64,64 $quick

if has watch; then
    mkdir in && cp good.tif in/ && echo "no stack" > in/README
    check "watch --once" 0 watched/good_labels.tif densecell-batch watch in -o watched --model fly-vnc-2d3d --once --quiet 0
else
    echo "skip	watch --once: this version has no such verb"
fi

if ! [ -e /opt/densecell/imagej/ij.jar ]; then
    echo "skip	fiji macro: the image was built without ImageJ (FIJI=0)"
elif has fiji macro; then
    cat > macro.ijm <<'MACRO'
newImage("test", "8-bit black", 30, 20, 1);
run("Add...", "value=3");
getStatistics(area, mean);
return "" + getWidth() * mean + getArgument();
MACRO
    check "fiji macro" 0 said densecell-batch fiji macro macro.ijm " argument"
    grep -q "90 argument" said || { echo "FAIL	fiji macro: expected '90 argument', got: $(cat said)"; failed=1; }
else
    echo "skip	fiji macro: this version has no such verb"
fi
exit $failed
