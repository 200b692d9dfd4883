# densecell-batch with everything it needs: no network, no root, no writable file system but the output folder.
#
#     make image                  # for NVIDIA GPUs (and CPUs)
#     make image VARIANT=cpu      # for processors: without TensorFlow and CUDA, which training and GPUs need
#     make image BASE=debian:bookworm-slim@sha256:...   # on this very base
#
# What is installed, and how, stands in container/install.sh, which Singularity.def runs, too.
ARG BASE=debian:bookworm-slim

# The Python packages, pinned by hash in container/constraints-*.txt
FROM ${BASE} AS dependencies
ARG VARIANT=gpu
ARG FIJI=1
COPY pyproject.toml /src/
COPY container/install.sh container/constraints-*.txt /src/container/
RUN sh /src/container/install.sh dependencies && sh /src/container/install.sh imagej

# densecell-batch itself, and the models
FROM dependencies AS package
ARG VARIANT=gpu
ARG FIJI=1
ARG MODELS=auto
COPY . /src/
RUN sh /src/container/install.sh package && sh /src/container/install.sh models

# What runs: no compiler, no pip, no caches
FROM ${BASE}
ARG FIJI=1
COPY container/install.sh /opt/densecell/install.sh
RUN sh /opt/densecell/install.sh system && rm /opt/densecell/install.sh
COPY --from=dependencies /opt/densecell /opt/densecell
COPY --from=package /opt/densecell/app /opt/densecell/app
COPY --from=package /opt/densecell/cache /opt/densecell/cache
COPY --from=package /opt/densecell/models /opt/densecell/models
COPY --from=package /opt/densecell/self-test /opt/densecell/healthcheck /opt/densecell/LICENSE /opt/densecell/
COPY --from=package /opt/densecell/venv/bin/densecell-batch /opt/densecell/venv/bin/densecell-batch

# HOME may be missing or read-only for the user that comes with --user: nothing below depends on it. Code that the driver
# compiles for a GPU goes to CUDA_CACHE_PATH; mount a folder there to keep it.
ENV PATH=/opt/densecell/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    KERAS_HOME=/opt/densecell/keras \
    DENSECELL_CACHE=/opt/densecell/cache \
    CUDA_CACHE_PATH=/tmp/densecell-cuda \
    CUDA_CACHE_MAXSIZE=4294967296 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG BASE
ARG VARIANT=gpu
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="densecell-batch" \
      org.opencontainers.image.description="Dense segmentation of electron-microscopy stacks with ensembles of neural nets" \
      org.opencontainers.image.licenses="BSD-3-Clause AND CC-BY-NC-SA-3.0 AND LicenseRef-NIBIB-public-release" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}" \
      densecell.variant="${VARIANT}"

USER 1000:1000
WORKDIR /data
HEALTHCHECK --interval=60s --timeout=20s --start-period=120s CMD ["/opt/densecell/healthcheck"]
ENTRYPOINT ["densecell-batch"]
CMD ["--help"]
