"""Which files of a watched folder are one stack: sets of OME-TIFFs, each file of which names the others.

A scan comes every few seconds and must cost next to nothing, so what a file says is read once, until it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from densecell_batch.io.discovery import Stamp, natural_key
from densecell_batch.io.formats.ome_set import find_set
from densecell_batch.storage.opening import Reach

__all__ = ["OmeSets"]


class _Said(NamedTuple):
    """What a file says of its set."""

    stamp: Stamp
    names: tuple[str, ...]  # of all files, the first slice first; empty if it is no set
    metadata: str  # the file in which that is written, if it is none of these
    metadata_stamp: Stamp | None


class OmeSets:
    """What is known of the files of a folder and of those below."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._known: dict[str, _Said] = {}
        self._before: dict[str, _Said] = {}

    def turn(self) -> None:
        """Begin another look: what is not asked for in it is forgotten after it."""
        self._before, self._known = self._known, {}

    def among(self, folder: str, stamps: Mapping[str, Stamp]) -> dict[str, tuple[str, Stamp]]:
        """The sets among the TIFFs of a folder.

        Parameters
        ----------
        folder
            The folder.
        stamps
            File name -> stamp of each TIFF in it.

        Returns
        -------
        dict
            Name of each TIFF that belongs to a set of several files -> the name of the one that stands for all, which
            has the first slice or comes first of those that are there, and the stamp of all that are there and that
            this one names.
        """
        found: dict[str, tuple[str, Stamp]] = {}
        for name in sorted(stamps, key=lambda name: natural_key(Path(name))):
            if name in found:
                continue
            names = self._names(Path(folder, name), stamps[name])
            if len(names) < 2:
                continue
            first = names[0] if names[0] in stamps else name
            files = self._names(Path(folder, first), stamps[first]) or (first,)
            there = [stamp for file in files if (stamp := stamps.get(file) or self._stamp(Path(folder, file)))]
            whole = Stamp.joined(there)
            found |= dict.fromkeys((name, *(other for other in names if other in stamps)), (first, whole))
        return found

    def _names(self, path: Path, stamp: Stamp) -> tuple[str, ...]:
        """What a file says, now or when it was last asked."""
        said = self._known.get(str(path), self._before.get(str(path)))
        if said is None or said.stamp != stamp or not self._stands(path, said):
            try:
                ome = find_set(path, self._reach)
            except Exception:  # its other files may be on their way; and no file ends the scan
                return ()
            metadata = "" if ome is None else ome.metadata
            names = () if ome is None else ome.names
            said = _Said(stamp, names, metadata, self._stamp(path.with_name(metadata)) if metadata else None)
        self._known[str(path)] = said
        return said.names

    def _stands(self, path: Path, said: _Said) -> bool:
        """Whether the file in which it is written is as it was."""
        return not said.metadata or self._stamp(path.with_name(said.metadata)) == said.metadata_stamp

    def _stamp(self, path: Path) -> Stamp | None:
        try:
            found = self._reach.stat(path)
        except OSError:
            return None
        return Stamp.of(found)
