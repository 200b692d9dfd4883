#!/bin/sh
# Is a container that runs `densecell-batch watch` able to work? Its folders must answer and take files: a network folder
# that went away lets the process live and nothing get done. Other verbs end by themselves and count as healthy.
set -eu

words=$(tr '\0' '\n' < /proc/1/cmdline)
out='' expect='' verb=''
# A word a line; paths may hold spaces.
IFS='
'
set -f
for word in $words; do
    if [ -n "$expect" ]; then
        out=$word expect=''
        continue
    fi
    case $word in
    watch) verb=watch ;;
    -o | --out) expect=out ;;
    --out=*) out=${word#--out=} ;;
    -o?*) out=${word#-o} ;;
    esac
done
[ "$verb" = watch ] && [ -n "$out" ] || exit 0
previous=''
for word in $words; do
    case $previous,$word in
    -o,* | --out,* | --hook,* | --move-*,* | --log,*) ;; # made when needed, or no folder
    *,/*) ls -d -- "$word" >/dev/null || exit 1 ;;       # the watched folder, a model: they must answer
    esac
    previous=$word
done
[ ! -e "$out" ] || { [ -d "$out" ] && [ -w "$out" ]; } || {
    echo "$out cannot be written"
    exit 1
}
