"""`python -m tests.fuzz`: see the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .driver import TARGETS, fuzz, fuzz_here, run_once, target


def main() -> int:
    """Fuzz what is asked for; 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder for inputs that were found")
    parser.add_argument("--input", type=Path, help="read this file once")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.targets or TARGETS
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}; expected some of {', '.join(TARGETS)}")
    if options.input or options.here:
        problem = (
            run_once(target(names[0]), options.input)
            if options.input
            else fuzz_here(names[0], options.here, options.seconds, options.seed)
        )
        print(problem, file=sys.stderr)
        return bool(problem)
    found = [fuzz(name, options.seconds / len(names), options.seed, options.keep) for name in names]
    return any(found)


if __name__ == "__main__":
    sys.exit(main())
