"""`status.html` in the output folder: what a person who dropped a stack wants to see, in any browser, from any machine.

One file without scripts, which loads itself again; written whole or not at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from densecell_batch.printable import printable
from densecell_batch.runs.ownership import set_aside
from densecell_batch.runs.summary import SUMMARY
from densecell_batch.storage.atomic import explained, write_file
from densecell_batch.storage.opening import open_plainly
from densecell_batch.watch.ledger import Row, Table

__all__ = ["Situation", "status_text", "write_status_page"]

_SHOWN = 200  # rows of the queue, at most
_RELOAD = 15  # seconds

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.faint { color: #777; } .counts { display: flex; gap: .8rem; margin: 1rem 0; flex-wrap: wrap; }
.count { border: 1px solid #8884; border-radius: .5rem; padding: .5rem 1rem; min-width: 6rem; }
.count b { display: block; font-size: 1.5rem; }
.trouble { background: #c0392b; color: white; border-radius: .5rem; padding: .7rem 1rem; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .35rem .6rem .35rem 0; }
td { border-top: 1px solid #8884; vertical-align: top; overflow-wrap: anywhere; } th { font-weight: 600; }
.failed b { color: #c0392b; } progress { width: 100%; }
td:first-child { min-width: 10rem; } td:last-child { white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #8884; border-radius: .5rem; padding: .7rem; overflow-wrap: anywhere; }
.card img { width: 100%; max-height: 19rem; object-fit: cover; object-position: 0 0; background: white; }
"""


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
    counts = {"arriving": situation.arriving, **_counts(table)}
    reload = "" if situation.stopped else f'<meta http-equiv="refresh" content="{_RELOAD}">'
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{reload}',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>densecell-batch: {escape(situation.inbox)}</title><style>{_STYLE}</style></head><body>",
        f'<h1>{escape(situation.inbox)}</h1><p class="faint">{_alive(situation)}</p>',
    ]
    if (out / SUMMARY).is_file():
        parts.append(f'<p><a href="{SUMMARY}">All that was done</a>, those to look at first on top</p>')
    if situation.trouble:
        parts.append(f'<p class="trouble">{escape(situation.trouble)}</p>')
    for link in situation.links:
        parts.append(f'<p class="faint">{escape(link)} is a link to a folder: what lies there is not seen</p>')
    boxes = (f'<div class="count"><b>{number}</b>{state}</div>' for state, number in counts.items())
    parts.append(f'<div class="counts">{"".join(boxes)}</div>')
    for row in by_state["running"]:
        parts.append(
            f"<h2>Running: {escape(row.name)}</h2>"
            f'<progress value="{row.progress:.3f}"></progress><p class="faint">since {_time(row.started)}, '
            f"on {escape(row.watcher)}</p>"
        )
    if by_state["failed"]:
        rows = ((f"<b>{escape(row.name)}</b>", escape(row.reason), _time(row.finished)) for row in by_state["failed"])
        parts.append(f'<div class="failed">{_table("Failed", ("stack", "why", "when"), rows)}</div>')
    if by_state["queued"]:
        rows = ((escape(row.name), escape(_waits(row)), _time(row.seen)) for row in by_state["queued"][:_SHOWN])
        parts.append(_table("Queue", ("stack", "", "since"), rows))
        if len(by_state["queued"]) > _SHOWN:
            parts.append(f'<p class="faint">and {len(by_state["queued"]) - _SHOWN} more</p>')
    if by_state["done"]:
        cards = "".join(_card(row, out) for row in by_state["done"])
        parts.append(f'<h2>Last results</h2><div class="cards">{cards}</div>')
    return "\n".join([*parts, "</body></html>\n"])


def _alive(situation: Situation) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if situation.stopped:
        return f"The watcher that wrote this was stopped at {now}."
    return f"As of {now}. If this is minutes ago, nobody watches the folder."


def _waits(row: Row) -> str:
    if row.retry_at > time.time():
        return f"attempt {row.attempts + 1} at {_time(row.retry_at)}, since: {row.reason}"
    return row.reason


def _table(title: str, heads: tuple[str, ...], rows: object) -> str:
    lines = [f"<h2>{title}</h2><table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for row in rows:  # type: ignore[attr-defined]
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>")
    return "".join([*lines, "</table>"])


def _card(row: Row, out: Path) -> str:
    """A result: its preview, and where it is."""
    preview = row.report.removesuffix("_report.json") + "_preview.png"
    image = ""
    if (out / preview).exists():
        image = f'<a href="{quote(preview)}"><img src="{quote(preview)}" alt="labels over slices" loading="lazy"></a>'
    confidence = "" if row.confidence is None else f"mean confidence {row.confidence:.2f}<br>"
    return (
        f'<div class="card">{image}<b>{escape(row.name)}</b><br>{confidence}'
        f'<a href="{quote(row.labels)}">labels</a> · <a href="{quote(row.report)}">report</a>'
        f'<div class="faint">{_time(row.finished)}</div></div>'
    )
