"""Write the records of runs as one HTML file that needs no server and no network.

Outside text (observations, diagnoses) is in the page only as JSON, plain or compressed, inside blocks that are not run,
and is shown only in text nodes, so it can never become markup. The content security policy of the page allows only its
own style and script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.jsonl import TornLineWarning
from hero_pl.runs.records import RECORDS_FILE, read_records
from hero_pl.runs.viewer.chunks import Chunks, to_json
from hero_pl.runs.viewer.curves import curves
from hero_pl.runs.viewer.episodes import Decode, Scales, add_episode, scale, short
from hero_pl.runs.viewer.summary import StageSummary, Summaries

SCRIPTS = ("store", "curves", "list", "episode", "page")
FIRST, OTHERS = b"<!--first chunk-->", b"<!--other chunks-->"
"""Places of the compressed blocks in the template. The chunk of the episode that is shown first comes before the
script, so that it is visible while the browser still reads the others."""
_HEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """One run to show."""

    records: Path
    """A ``trajectories.jsonl``."""
    decode: Decode | None = None
    """Returns the text of each sampled id, so that every token gets its own color. Without it each turn is colored by
    its mean loss."""


def write_html(sources: Sequence[Source], out_path: Path) -> int:
    """Write the page of one or more runs and return the number of episodes in it.

    Args:
        sources: The runs; of several, the page shows episodes of the same task side by side.
        out_path: HTML file to write; an existing file is replaced.

    Raises:
        ConfigError: A run is given twice.
        HeroError: The records or metrics cannot be read, a decoder does not return one text per id, or ``out_path``
            cannot be written.
    """
    names = run_names([source.records for source in sources])
    with TemporaryFile() as store, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornLineWarning)
        chunks = Chunks(store)
        data = _read(sources, names, chunks)
        page = fill_page(files(__package__), "page", " and ".join(names), data, SCRIPTS).encode()
        try:
            out_path.parent.mkdir(parents=True, exist_ok=True)
            with out_path.open("wb") as out:
                _write(page, chunks, chunks.of(data["open"]), out)
        except OSError as error:
            raise HeroError(
                f"{out_path}: cannot write the page ({error.strerror or error}). Give another path."
            ) from error
    for warning in caught:
        warnings.warn(warning.message, warning.category, stacklevel=2)
    return len(data["episodes"])


def is_per_token(page: Path) -> bool:
    """Whether a page written by :func:`write_html` colors single tokens."""
    try:
        with page.open("rb") as file:  # the key is the first of the data; in outside text the quotes are escaped
            return b'"per_token":true' in file.read(_HEAD)
    except OSError:
        return False


def run_names(records: Sequence[Path]) -> list[str]:
    """Names of runs: the last parts of their paths, at least two and as many as are needed to tell them apart.

    Raises:
        ConfigError: A file is given twice.
    """
    paths = [path.resolve() for path in records]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ConfigError(f"{twice} is given twice. Give each run once.")
    parts = [[*path.parent.parts[1:], *([path.stem] if path.name != RECORDS_FILE else [])] for path in paths]
    for length in range(2, max(map(len, parts), default=2) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(sources: Sequence[Source], names: Sequence[str], chunks: Chunks) -> dict[str, Any]:
    """Read all records once: fill the chunks and return the data of the list and of the head."""
    runs, rows = [], []
    for number, source in enumerate(sources):
        summaries = Summaries()
        scales = Scales()
        for record in read_records(source.records):
            summaries.add(record)
            rows.append(add_episode(record, number, source.decode, scales, chunks))
        runs.append(
            {
                "name": names[number],
                "per_token": source.decode is not None,
                "token_scale": scale(scales.tokens),
                "turn_scale": scale(scales.turns),
                "stages": [_stage(summary) for summary in summaries.shown()],
            }
        )
    chunks.finish()
    return {
        "per_token": any(run["per_token"] for run in runs),
        "open": _explained(rows),
        "starts": chunks.starts,
        "runs": runs,
        "curves": curves([source.records for source in sources]),
        "episodes": rows,
    }


def _explained(rows: Sequence[Sequence[Any]]) -> int:
    """The episode to open first: one with a diagnosis, else one with a loss; evaluations before them have neither."""
    diagnosed = (i for i, row in enumerate(rows) if row[11])
    scored = (i for i, row in enumerate(rows) if row[9] is not None)
    return next(diagnosed, next(scored, 0))


def _write(page: bytes, chunks: Chunks, shown: int, out: BinaryIO) -> None:
    """Write the page with its compressed blocks, one at a time."""
    head, rest = page.split(FIRST)
    middle, tail = rest.split(OTHERS)
    numbers = range(len(chunks.starts))
    out.write(head)
    out.writelines(chunks.blocks(numbers[shown : shown + 1]))
    out.write(middle)
    out.writelines(chunks.blocks(number for number in numbers if number != shown))
    out.write(tail)


def fill_page(
    folder: Traversable, stem: str, title: str, data: dict[str, Any], scripts: Sequence[str] | None = None
) -> str:
    """Fill title, style, data and script into a template in one pass, so that data is never read as a placeholder.

    Args:
        folder: Folder with the template ``stem.html`` and with ``stem.css`` and ``stem.js``.
        stem: Name of these files without the ending.
        title: Title of the page.
        data: JSON values of the data block.
        scripts: Names of the script files without the ending, in order; default: ``stem`` alone.
    """
    style = folder.joinpath(f"{stem}.css").read_text(encoding="utf-8")
    script = "".join(folder.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in scripts or (stem,))
    policy = f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'"
    # Inside <script>, "<" could end the block or open a comment; escaped, it is the same JSON.
    values = {
        "title": html.escape(title),
        "policy": policy,
        "style": style,
        "script": script,
        "data": to_json(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
    }
    template = folder.joinpath(f"{stem}.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _hash(text: str) -> str:
    """Hash of an inline block, as a content security policy expects it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _stage(summary: StageSummary) -> dict[str, Any]:
    return {
        "stage": summary.stage,
        "name": summary.name,
        "last_of": summary.last_of,
        "episodes": summary.episodes,
        "broken": summary.broken,
        "success": summary.success,
        "floor": summary.floor,
        "users": sorted(summary.users),
        "reward": short(summary.mean_reward),
        "turns": summary.turns_per_episode,
        "coverage": summary.coverage,
        "malformed": summary.malformed,
    }
