"""`status.html` in the output folder: what a person who dropped a stack wants to see, in any browser, from any machine.

One file without scripts, which loads itself again; written whole or not at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from densecell_batch.pages.rendering import render
from densecell_batch.printable import printable
from densecell_batch.runs.ownership import set_aside
from densecell_batch.runs.summary import SUMMARY
from densecell_batch.storage.atomic import explained, write_file
from densecell_batch.storage.opening import open_plainly
from densecell_batch.watch.ledger import Row, Table

__all__ = ["Situation", "status_text", "write_status_page"]

_SHOWN = 200  # rows of the queue, at most
_RELOAD = 15  # seconds


@dataclass(frozen=True)
class Situation:
    """What a page shows."""

    inbox: str
    table: Table
    arriving: int = 0  # stacks that are not quiet yet
    trouble: str = ""  # why nothing is done
    links: tuple[str, ...] = ()  # to folders, which are passed over
    stopped: bool = False


def write_status_page(out: Path, situation: Situation) -> None:
    """Write the page.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = out / "status.html"
    if path.exists() and not _is_ours(path):
        set_aside(path, path)
    write_file(path, _page(situation, out).encode("utf-8", "backslashreplace"))


def _is_ours(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with explained(path), open_plainly(path) as stream:
        return b"<title>densecell-batch: " in stream.read(4096)


def status_text(table: Table, width: int = 100) -> str:
    """The same for a terminal: a line for each stack, then how many there are."""
    lines = [f"{'state':<8} {'tries':>5}  {'since':<16}  {'stack':<36}  result"]
    for row in table.rows:
        what = row.labels if row.state == "done" else row.reason
        if row.state == "running":
            what = f"{100 * row.progress:.0f} %, {row.watcher}"
        text = f"{row.state:<8} {row.attempts:>5}  {_time(_since(row)):<16}  {row.name:<36}  {what}".rstrip()
        lines.append(printable(" ".join(text.splitlines())))
    lines.append("; ".join(f"{number} {state}" for state, number in _counts(table).items()))
    running = ", ".join(table.watchers) or "none"
    lines.append(f"watchers: {running}")
    lines += [f"{path.name}: cannot be read at this moment" for path in table.unread]
    return "\n".join(lines)


def _counts(table: Table) -> dict[str, int]:
    counts = {state: sum(row.state == state for row in table.rows) for state in ("queued", "running", "failed")}
    return {**counts, "done": table.done}


def _since(row: Row) -> float:
    return {"queued": row.seen, "running": row.started}.get(row.state, row.finished)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def _page(situation: Situation, out: Path) -> str:
    table = situation.table
    by_state: dict[str, list[Row]] = {"queued": [], "running": [], "failed": [], "done": []}
    for row in table.rows:
        by_state[row.state].append(row)
    return render(
        "status",
        inbox=situation.inbox,
        reload=None if situation.stopped else _RELOAD,
        alive=_alive(situation),
        summary=SUMMARY if (out / SUMMARY).is_file() else "",
        trouble=situation.trouble,
        links=situation.links,
        counts={"arriving": situation.arriving, **_counts(table)},
        running=[
            {"name": row.name, "progress": f"{row.progress:.3f}", "since": _time(row.started), "watcher": row.watcher}
            for row in by_state["running"]
        ],
        failed=[{"name": row.name, "why": row.reason, "when": _time(row.finished)} for row in by_state["failed"]],
        queue=[{"name": row.name, "why": _waits(row), "when": _time(row.seen)} for row in by_state["queued"][:_SHOWN]],
        more=max(len(by_state["queued"]) - _SHOWN, 0),
        done=[_card(row, out) for row in by_state["done"]],
    )


def _alive(situation: Situation) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if situation.stopped:
        return f"The watcher that wrote this was stopped at {now}."
    return f"As of {now}. If this is minutes ago, nobody watches the folder."


def _waits(row: Row) -> str:
    if row.retry_at > time.time():
        return f"attempt {row.attempts + 1} at {_time(row.retry_at)}, since: {row.reason}"
    return row.reason


def _card(row: Row, out: Path) -> dict[str, str | None]:
    """A result: its preview, and where it is."""
    preview = row.report.removesuffix("_report.json") + "_preview.png"
    return {
        "name": row.name,
        "preview": _address(preview) if (out / preview).exists() else "",
        "confidence": None if row.confidence is None else f"{row.confidence:.2f}",
        "labels": _address(row.labels),
        "report": _address(row.report),
        "when": _time(row.finished),
    }


def _address(name: str) -> str:
    """A file in the output folder, as the page links it."""
    return quote(name.encode("utf-8", "surrogateescape"))
