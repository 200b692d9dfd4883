#!/bin/sh
# Install densecell-batch into an image of Debian 12, under /opt/densecell. Dockerfile and Singularity.def both run this
# script, the one step by step, the other all at once:
#
#     install.sh system         Python; Java and Xvfb, without which ImageJ lacks its commands, where FIJI=1
#     install.sh dependencies   the Python packages, pinned by hash  -> venv/, keras/
#     install.sh imagej         ImageJ, pinned, where FIJI=1         -> imagej/
#     install.sh package        densecell-batch itself               -> app/, self-test
#     install.sh models         published and own model bundles      -> cache/, models/
#     install.sh all            all of it, without leaving tools behind
#
# From the environment: VARIANT cpu or gpu; FIJI 1 or 0; MODELS auto, none, or names of published models. The project lies
# in the folder above this script.
set -eu

src=$(cd "$(dirname "$0")/.." && pwd)
root=/opt/densecell
python=$root/venv/bin/python
VARIANT=${VARIANT:-gpu} FIJI=${FIJI:-1} MODELS=${MODELS:-auto}
imagej_version=1.54p
imagej_sha256=2e1a09961dfb41cee66ddc821b2577a41a072566ce45a49bae69267099741e20
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

die() {
    echo "install.sh: $*" >&2
    exit 1
}

case $VARIANT in cpu | gpu) ;; *) die "VARIANT is '$VARIANT'; expected cpu or gpu" ;; esac
case $FIJI in 0 | 1) ;; *) die "FIJI is '$FIJI'; expected 0 or 1" ;; esac

apt_install() {
    # Java wants the folders of its manual pages, which slim images lack.
    mkdir -p /usr/share/man/man1
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

apt_clean() {
    apt-get clean
    rm -rf /tmp/hsperfdata_* /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/debconf/*-old /var/cache/ldconfig
}

trust_what_pip_trusts() {
    # What is fetched by others than pip: a certificate authority named in pip.conf counts for them, too.
    certificates=$(/opt/build/bin/pip config list | sed -n "s/^global\.cert='\(.*\)'$/\1/p" | tail -n 1)
    [ -z "$certificates" ] || export REQUESTS_CA_BUNDLE="$certificates"
}

install_system() {
    # shellcheck disable=SC2086 # words
    apt_install python3 $java
    apt_clean
}

install_dependencies() {
    apt_install python3 python3-venv
    python3 -m venv /opt/build
    # The environment itself gets no pip: nothing is to be installed in an image later.
    python3 -m venv --without-pip "$root/venv"
    pins=$src/container/constraints-$VARIANT.txt
    if [ -n "$fiji" ]; then cat "$pins"; else sed '/^# For ImageJ alone/,$d' "$pins"; fi > /opt/build/pins.txt
    pip_install --only-binary :all: --require-hashes --requirement /opt/build/pins.txt
    # Headers for extensions in C++, a parser of C++, the packages' own tests: 600 MB with TensorFlow.
    packages=$(echo "$root"/venv/lib/python3*/site-packages)
    rm -rf "$packages/tensorflow/include" "$packages/clang"
    # Of OpenVINO what is for other devices than processors, and reads nets of others: 80 MB.
    for part in intel_gpu_plugin intel_npu_plugin onnx_frontend tensorflow_frontend tensorflow_lite_frontend \
        pytorch_frontend paddle_frontend gguf_frontend; do
        rm -f "$packages"/openvino/libs/libopenvino_$part.so*
    done
    rm -f "$packages/openvino/libs/cache.json" # kernels for GPUs
    find "$packages" -type d -name tests -prune -exec rm -rf {} +
    # densecell-batch has a folder of its own, and in an image a layer: it is small, and changes more often.
    echo "$root/app" > "$packages/densecell.pth"
    # Keras writes this file into the home folder if it finds none, and obeys one that a user has there.
    mkdir -p "$root/keras"
    printf '{"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_last"}\n' \
        > "$root/keras/keras.json"
}

pip_install() {
    /opt/build/bin/pip --python "$python" install --quiet "$@"
}

install_imagej() {
    [ -n "$fiji" ] || return 0
    mkdir -p "$root/imagej"
    trust_what_pip_trusts
    HOME=/opt/build "$python" -P - "$imagej_version" "$root/imagej/ij.jar" <<'PYTHON'
import shutil
import sys

from jgo.maven import MavenContext

version, target = sys.argv[1:]
shutil.copyfile(MavenContext().project("net.imagej", "ij").at_version(version).artifact().resolve(), target)
PYTHON
    echo "$imagej_sha256  $root/imagej/ij.jar" | sha256sum --check --quiet ||
        die "ImageJ $imagej_version is not the file that was pinned"
}

install_package() {
    # With the pinned setuptools that is there: one of its own would be fetched unpinned.
    pip_install --no-deps --no-build-isolation --target "$root/app" "$src"
    sed "1s|.*|#!$python|" "$root/app/bin/densecell-batch" > "$root/venv/bin/densecell-batch"
    chmod 755 "$root/venv/bin/densecell-batch"
    rm -rf "$root/app/bin"
    cp "$src/container/self-test.sh" "$root/self-test"
    cp "$src/container/healthcheck.sh" "$root/healthcheck"
    cp "$src/LICENSE" "$root/"
    chmod 755 "$root/self-test" "$root/healthcheck"
}

install_models() {
    mkdir -p "$root/cache" "$root/models"
    export DENSECELL_CACHE="$root/cache" KERAS_HOME="$root/keras"
    densecell="$root/venv/bin/densecell-batch"
    trust_what_pip_trusts
    # Published nets that somebody downloaded into models/ need no network. Who builds the image vouches for them.
    set --
    for zip in "$src"/models/2d3d-3x3x3_*.zip; do
        [ -e "$zip" ] || continue
        mkdir -p "$root/cache/downloads/platelet-2d3d"
        cp "$zip" "$root/cache/downloads/platelet-2d3d/"
        sum=$(sha256sum "$zip")
        set -- "$@" --sha256 "$(basename "$zip")=${sum%% *}"
    done
    case $MODELS in
    none) ;;
    auto) "$densecell" models fetch platelet-2d3d "$@" ||
        echo "install.sh: NOTE: without platelet-2d3d, which cannot be fetched here; MODELS=platelet-2d3d insists on it" ;;
    *)
        for name in $MODELS; do
            if [ "$name" = platelet-2d3d ]; then
                "$densecell" models fetch "$name" "$@"
            else
                "$densecell" models fetch "$name"
            fi
        done
        ;;
    esac
    rm -rf "$root/cache/downloads"
    # Bundles of one's own are used by path: --model /opt/densecell/models/NAME.zip
    for zip in "$src"/models/*.zip; do
        case $zip in */2d3d-3x3x3_*.zip | *'*.zip') continue ;; esac
        "$densecell" models verify "$zip"
        cp "$zip" "$root/models/"
    done
    chmod -R a+rX "$root/app" "$root/cache" "$root/models"
}

remove_tools() {
    apt-get purge -y -qq --auto-remove python3-venv >/dev/null
    rm -rf /opt/build
    apt_clean
}

java='' fiji=''
if [ "$FIJI" = 1 ]; then java='openjdk-17-jre xvfb' fiji=1; fi
case ${1:-} in
system | dependencies | imagej | package | models) "install_$1" ;;
all)
    for step in system dependencies imagej package models; do "install_$step"; done
    remove_tools
    ;;
*) die "expected one of system, dependencies, imagej, package, models, all" ;;
esac
