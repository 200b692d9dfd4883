"""What computes the nets, behind Keras: TensorFlow, without its greetings and with its fast kernels; or JAX."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from densecell_batch.errors import DeviceError

__all__ = ["backend", "choose_kernels", "compiled", "quiet_stderr", "use_backend", "value_and_gradients"]


def choose_kernels() -> None:
    """Ask TensorFlow for the kernels of oneDNN; it decides when it is imported.

    By itself it takes them only where there is AVX-512 VNNI. They are up to three times as fast with AVX2, too; and the
    others send the gradient of a pooled maximum to all voxels that share it, not to one.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send what C++ libraries write to stderr nowhere; errors come as exceptions all the same.

    TensorFlow writes to the file descriptor before its own log level counts. ImageJ's `exec` hangs when a child
    writes much to stderr, and a user takes "WARNING" at every start for something that went wrong.

    Raises
    ------
    DeviceError
        If no temporary folder can be written, as in a container all read-only: TensorFlow cannot be imported then.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise DeviceError(
            f"TensorFlow needs a folder for temporary files ({error}); set TMPDIR to one that can be written, or start "
            "the container with --tmpfs /tmp"
        ) from error
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    choose_kernels()
    try:
        kept = os.dup(2)
    except OSError:  # there is none, as in services
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def backend() -> str:
    """Name of the Keras backend: "tensorflow" (default, tested, shipped) or "jax"."""
    try:
        with quiet_stderr():  # where nobody has imported it yet
            import keras
    except ImportError as error:
        raise DeviceError(
            f"training and GPUs need Keras with TensorFlow or JAX, which cannot be imported here ({error}): pip "
            "install tensorflow keras, or take the container image for GPUs, which has them"
        ) from error

    return str(keras.backend.backend())


def use_backend(name: str) -> None:
    """Let Keras compute with "tensorflow" or "jax"; for once and all in this process.

    Raises
    ------
    DeviceError
        If it computes with another one already.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = name
    if backend() != name:
        raise DeviceError(
            f"this process computes with {backend()} already, and cannot change to {name}: start another one"
        )


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of tensors with the backend of Keras."""
    if backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


def value_and_gradients(loss: Any, variables: list[Any]) -> tuple[Any, list[Any]]:
    """A scalar function of a list of tensors, and its gradient for each of them, with the backend of Keras."""
    if backend() == "jax":
        import jax

        value, gradients = jax.value_and_grad(loss)(variables)
        return value, gradients
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(variables)
        value = loss(variables)
    return value, tape.gradient(value, variables)
