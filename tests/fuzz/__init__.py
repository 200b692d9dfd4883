"""Random damage of good files: every reader answers with an error of the tool's own, in bounded memory and time.

::

    python -m tests.fuzz                        all targets, a minute together
    python -m tests.fuzz bundle --seconds 600   one target, ten minutes
    python -m tests.fuzz bundle --input FILE    an input that was found, once more

A target is a module here that makes a `driver.Target`, and its name in `driver.TARGETS`; a format without checksums
needs three lines::

    TARGET = Target(lambda: [Path("good.tif").read_bytes()], read, ".tif")
"""
