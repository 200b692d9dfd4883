#!/bin/sh
# Pin every package of an image, with the hashes of its files: resolve anew, and write container/constraints-VARIANT.txt.
#
#     container/constraints.sh cpu|gpu [--keep|--check]
#
# --keep leaves the versions that are pinned as they are: after a package was added. --check writes nothing: do the pins
# still fit together, can they be had, and are they the same files? Needs Python 3.11 on x86_64, as $PYTHON or python3.
# Nothing is installed.
set -eu
cd "$(dirname "$0")/.."
variant=${1:?expected cpu or gpu}
mode=${2:-}
python=${PYTHON:-python3}
file=container/constraints-$variant.txt
case $mode in '' | --keep | --check) ;; *) echo "$mode: expected --keep or --check" >&2 && exit 2 ;; esac
"$python" -c 'import platform, sys; sys.exit((sys.version_info[:2], platform.machine()) != ((3, 11), "x86_64") and
"expected Python 3.11, which the image has, on x86_64")'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

report() { # NAME OPTION...: what pip would install, for this machine or another
    name=$1
    shift
    "$python" -m pip install --quiet --dry-run --ignore-installed --only-binary :all: --report "$work/$name.json" "$@"
}

: > "$work/kept.txt"
[ -z "$mode" ] || "$python" container/pins.py versions "$file" > "$work/kept.txt"
for name in plain fiji; do
    # shellcheck disable=SC2046 # fiji is a word of its own, or none
    "$python" container/requirements.py "$variant" $([ "$name" = plain ] || echo fiji) > "$work/$name.txt"
    report "$name" --requirement "$work/$name.txt" --constraint "$work/kept.txt"
    # What ImageJ needs is added to the others as they are.
    "$python" container/pins.py versions "$work/$name.json" > "$work/kept.txt"
done

# The same versions for the other kind of processor, of which there is no image for GPUs; the kinds of wheels that
# Debian 12 can use.
set -- "$work/plain.json" "$work/fiji.json"
if [ "$variant" = cpu ]; then
    platforms='--platform linux_aarch64 --platform manylinux2014_aarch64'
    for glibc in 17 24 26 27 28 31 34 35 36; do platforms="$platforms --platform manylinux_2_${glibc}_aarch64"; done
    # shellcheck disable=SC2086 # words
    report other --no-deps --target "$work" --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
        $platforms --requirement "$work/kept.txt"
    set -- "$@" "$work/other.json"
fi
{
    echo "# Made by: container/constraints.sh $variant"
    "$python" container/pins.py pins "$@"
} > "$work/pins.txt"
if [ "$mode" != --check ]; then
    mv "$work/pins.txt" "$file"
elif ! diff "$file" "$work/pins.txt" >&2; then
    echo "the lines above are not those of $file; make it anew: container/constraints.sh $variant --keep" >&2
    exit 1
fi
echo "$file: $(grep -c == "$file") packages fit together"
