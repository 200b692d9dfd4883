"""The errors that a user can meet, and the exit code each one ends with.

::

    DensecellError                 1
    ├── StackError                 1   one stack cannot be read or segmented; the batch goes on
    ├── OutputError                1   a result cannot be written (folder missing, not allowed)
    │   └── DiskFullError          1   no room for it: nothing else can be written either
    ├── OccupiedError              1   the name of a result is taken by a file of the user's
    ├── BusyError                  1   another process works on it; wait for that one
    ├── MacroError                 1   a user's ImageJ macro failed, hung or opened a dialog
    ├── OptionError                2   options that contradict each other, the net or the stack
    ├── ModelError                 3   no such model, or one that cannot be used
    │   ├── BundleError            3   a model bundle is incomplete, changed or of an unknown schema
    │   ├── PublishedModelError    3   a published TensorFlow 1 model cannot be imported
    │   └── FetchError             3   a download is impossible or is not what it was
    ├── ClusterError               3   there is no Slurm here, or it refuses a job
    ├── DeviceError                3   the device asked for is not there or not usable
    ├── ImageJError                3   there is no ImageJ or no Java, or they do not start

    Stopped                       75   SIGTERM or SIGINT: run the same command again to continue

Every message says what was found, where, what was expected and what to do about it. The command line catches these and
turns them into an exit code; anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "BusyError",
    "ClusterError",
    "DensecellError",
    "DeviceError",
    "DiskFullError",
    "FetchError",
    "ImageJError",
    "MacroError",
    "ModelError",
    "OccupiedError",
    "OptionError",
    "OutputError",
    "PublishedModelError",
    "StackError",
    "Stopped",
]


class DensecellError(Exception):
    """Base of every error that is meant for the user."""

    exit_code = 1


class StackError(DensecellError):
    """A stack cannot be read or segmented. The other stacks of a batch are not affected."""


class OutputError(DensecellError):
    """A result cannot be written."""


class DiskFullError(OutputError):
    """There is no room for a result."""


class OccupiedError(DensecellError):
    """A result cannot take its name: a file that is not ours, or not any more, has it. It stays as it is."""


class BusyError(DensecellError):
    """Another process works on the same stack, or under the same name."""


class MacroError(DensecellError):
    """A user's ImageJ macro failed, ran too long or opened a dialog. The message quotes the macro."""


class OptionError(DensecellError):
    """Options that contradict each other, the net or the stack."""

    exit_code = 2


class ModelError(DensecellError):
    """A model does not exist or cannot be used."""

    exit_code = 3


class BundleError(ModelError):
    """A model bundle is incomplete, was changed, or has a schema this version does not know."""


class PublishedModelError(ModelError):
    """A published TensorFlow 1 model cannot be imported."""


class FetchError(ModelError):
    """A download is impossible, or what came is not what was recorded."""


class ClusterError(DensecellError):
    """There is no Slurm here, or it refuses a job."""

    exit_code = 3


class DeviceError(DensecellError):
    """The device that was asked for is not there or not usable."""

    exit_code = 3


class ImageJError(DensecellError):
    """There is no ImageJ or no Java, or they do not start."""

    exit_code = 3


class Stopped(BaseException):
    """The run was stopped by SIGTERM or SIGINT; the same command continues it.

    As KeyboardInterrupt, it is no Exception: what expects faults, of a decoder for example, shall not take it for one.
    """

    exit_code = 75
