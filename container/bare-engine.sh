#!/bin/sh
# Let buildah and podman work on a machine without a set-up container engine, as root in a virtual machine or a CI runner:
# no bridge network, no systemd, images in a folder of their own. Prints shell code to be evaluated:
#
#     eval "$(container/bare-engine.sh build/containers)"
#
# Where pip trusts a certificate authority of this machine, IMAGE_BUILD_FLAGS lets the pip of the build trust it, too.
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)

cat > "$folder/storage.conf" <<EOF
[storage]
driver = "overlay"
graphroot = "$folder/storage"
runroot = "$folder/run"
EOF
cat > "$folder/containers.conf" <<EOF
[containers]
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
EOF
echo "export CONTAINERS_STORAGE_CONF='$folder/storage.conf' CONTAINERS_CONF='$folder/containers.conf'"
echo "export BUILDAH_ISOLATION=chroot"

certificates=$(python3 -m pip config list 2>/dev/null | sed -n "s/^.*\.cert='\(.*\)'$/\1/p" | tail -n 1)
if [ -n "$certificates" ]; then
    printf '[global]\ncert = /run/build-ca.crt\n' > "$folder/pip.conf"
    echo "export IMAGE_BUILD_FLAGS='--volume $certificates:/run/build-ca.crt:ro --volume $folder/pip.conf:/etc/pip.conf:ro'"
fi
