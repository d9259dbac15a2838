"""CPU time of the page of a large run in Chromium: until the first episode is visible, and per search.

    python benchmarks/viewer.py                        20 000 episodes of 4 turns of 150 tokens, several minutes
    python benchmarks/viewer.py --episodes 2000        the same, smaller

The records hold random numbers, which compress worse than those of a run. Times are CPU seconds of all processes of the
browser. The status is 1 above ``FIRST_S`` or ``SEARCH_S``. Needs playwright (extra ``browser``) and Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from memory import peak_mib

from hero_pl.runs.records import Record, append_records
from hero_pl.runs.viewer import Source, write_html
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

FIRST_S, SEARCH_S = 2.0, 0.2
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("n", "r", "st", "lo", "ka", " ", ". ")]
QUERIES = ("task-19", "observation of turn 2", "rare word", "found nowhere")


def make_episodes(count: int, turns: int, tokens: int) -> Iterator[Record]:
    """Records with random texts, losses and probabilities; every hundredth has the words "rare word"."""
    rng = Random(0)
    for i in range(count):
        played, columns = [], []
        for number in range(1, turns + 1):
            ids = tuple(rng.choices(range(len(WORDS)), k=tokens))
            text = "".join(WORDS[one] for one in ids)
            seen = (
                f"observation of turn {number}: " + " ".join(rng.choices(WORDS, k=60)) + " rare word" * (i % 100 == 99)
            )
            played.append(Turn(number, (1,), ids, (-0.5,) * tokens, text, text[:30], " ".join(seen), "tool"))
            columns.append([tuple(rng.random() ** power for _ in ids) for power in (6, 1, 1)])
        trajectory = Trajectory(
            f"task-{i % 500}",
            "hero_pl/Toy-v0",
            i,
            0,
            "system",
            (),
            "do it",
            tuple(played),
            rng.random(),
            StopReason.TERMINATED,
        )
        reflection = Reflection((Diagnosis("go back", "low"), *[None] * (turns - 1)), "ok")
        yield Record("train", i // 8, trajectory, reflection, *(tuple(column) for column in zip(*columns, strict=True)))


def cpu_s(session: Any) -> float:
    """CPU seconds of all processes of the browser so far."""
    return sum(float(one["cpuTime"]) for one in session.send("SystemInfo.getProcessInfo")["processInfo"])


def pages(folder: Path, episodes: int, turns: int, tokens: int) -> dict[str, float]:
    """Write records, unless they are there, and their page; the sizes and the CPU seconds of writing the page."""
    records, page = folder / "trajectories.jsonl", folder / "page.html"
    if not records.exists():
        append_records(records, make_episodes(episodes, turns, tokens))
    start = time.process_time()
    count = write_html([Source(records, lambda ids: [WORDS[one] for one in ids])], page)
    sizes = {"records_mb": records.stat().st_size / 1e6, "page_mb": page.stat().st_size / 1e6}
    peak_mb = peak_mib() * 2**20 / 1e6
    return {"episodes": count, **sizes, "write_cpu_s": time.process_time() - start, "write_peak_mb": peak_mb}


def measure(page_file: Path, browser: Any) -> dict[str, float]:
    """Open the page; CPU seconds until the first episode is visible, until all is read, and per search."""
    page, session = browser.new_page(viewport={"width": 1280, "height": 900}), browser.new_browser_cdp_session()
    page.set_default_timeout(300_000)
    page.goto("about:blank")
    start = cpu_s(session)
    page.goto(page_file.as_uri(), wait_until="commit")
    page.wait_for_selector("article .turn")
    result = {"first_episode_cpu_s": cpu_s(session) - start}
    page.wait_for_load_state("load")
    page.evaluate("prepareSearch(false)")  # the page begins it by itself; this waits for its end
    result["all_read_cpu_s"] = cpu_s(session) - start
    for query in QUERIES:
        start = cpu_s(session)
        page.evaluate("async (query) => { at('query').value = query; await filter(); }", query)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        result[f"search {query!r} cpu_s"] = cpu_s(session) - start
    page.close()
    return result


def main(arguments: list[str] | None = None) -> int:
    """Write records and page, measure, print; the exit status."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--folder", type=Path, help="keep records and page there")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as made:
        folder = given.folder or Path(temporary)
        show(pages(folder, given.episodes, given.turns, given.tokens))
        path = shutil.which("chromium") or made.chromium.executable_path
        browser = made.chromium.launch(executable_path=path, args=["--no-sandbox"])
        times = measure(folder / "page.html", browser)
        browser.close()
    show(times)
    searches = [value for name, value in times.items() if name.startswith("search")]
    return int(times["first_episode_cpu_s"] > FIRST_S or max(searches) > SEARCH_S)


def show(values: dict[str, float]) -> None:
    """Print values as JSON."""
    print(json.dumps({name: round(value, 3) for name, value in values.items()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
