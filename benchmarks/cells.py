"""One cell of a grid: a method on a base policy at a learning rate and a seed, run once and stored.

A cell has its own folder. Its name and ``cell.json`` contain everything that changes its results: suite, method, base
policy with a digest of its weights, learning rate, seed, budgets, held-out episodes, a digest of its configuration
files, and the settings of the suite. The commit is in the results, not in the name: after a change of the code, use
another folder.
``result.json`` is written when the cell ends or crashes; a folder without it was interrupted. A cell saves itself every
ten minutes: what was interrupted or has crashed goes on from there, if the code is the same, else it starts again.

Each cell starts with a new configuration and seed, so its results do not depend on cells that ran before in the same
process. An error inside a cell ends only that cell.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from methods import BASE, ROOT, method_of
from provenance import commit
from suites import OWN_CHECKPOINTS, SUITES, located, nested, policy_folder, settings

from hero_pl.callbacks.interrupts import Interrupted
from hero_pl.runs.evaluations import EVAL_FILE
from hero_pl.runs.jsonl import read_lines

DONE, CRASHED = "done", "crashed"
SAVED_AFTER_MIN = 10.0  # what an interruption costs at most
NOTHING: dict[str, Any] = {"status": "not run", "error": "", "wall_s": None, "commit": "", "curve": {}}
"""Result of a cell that was not run."""
VALUES = (
    *("turns_used", "success", "success_greedy", "reward", "turns", "invalid", "episodes", "non_evaluable"),
    *("do_nothing_floor", "user", "train_cpu_s"),
)
SPENT = {
    "acting_tokens": "rollout/action_tokens",
    "reflecting_tokens": "reflection/tokens",
    "teaching_tokens": "teacher/tokens",
}
"""Column of the results -> column of ``metrics.csv`` that is summed up to each budget."""


@dataclass(frozen=True)
class Cell:
    """Definition of one run."""

    suite: str
    method: str
    policy: str
    lr: float
    seed: int
    budgets: tuple[int, ...]
    stage: str = "test"
    episodes: int = 250
    endpoint: tuple[str, str] | None = None
    more: tuple[tuple[str, Any], ...] = ()
    """Settings (dotted keys and values) that override all others."""

    @property
    def configs(self) -> list[str]:
        """Its configuration files, relative to the repository, in overlay order."""
        return [SUITES[self.suite].config, *method_of(self.method).overlays]

    @property
    def base(self) -> str:
        """Short name of the base policy."""
        if self.policy.startswith(OWN_CHECKPOINTS):
            return Path(self.policy).name
        return self.policy.rsplit(":", 1)[-1].strip("/").replace("/", "-")

    @property
    def label(self) -> str:
        """Name for comparisons; tuning runs have a different one."""
        return self.method if self.stage == "test" else f"{self.method} at {self.lr:g}"

    @property
    def on_top(self) -> dict[str, Any]:
        """Settings of suite and method, on top of the configuration files."""
        found = settings(SUITES[self.suite], self.method, self.endpoint, self.stage)
        if any(key.startswith("data.env_args.") for key, _ in self.more):
            # a file replaces all arguments of the environment, so the others have to be in it
            found.setdefault("data.env_args", SUITES[self.suite].values["data"].get("env_args", {}))
        return found

    def identity(self) -> dict[str, Any]:
        """Everything that changes the results."""
        files = {path: digest(ROOT / path) for path in self.configs}
        weights = digests(policy_folder(self.policy))
        on_top = self.on_top
        said = {**asdict(self), "budgets": list(self.budgets), "files": files, "weights": weights, "settings": on_top}
        said.pop("more")
        if others := {name: digests(policy_folder(name)) for name in sorted(_pretrained([on_top, dict(self.more)]))}:
            said["other_weights"] = others  # of a second policy, for example one that writes the reviews
        return {**said, "more": dict(self.more)} if self.more else said

    def folder(self, out: Path) -> Path:
        """Folder of the cell; the folders of one method differ only in the seed at the end."""
        values = {key: value for key, value in self.identity().items() if key != "seed"}
        code = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        return out / f"{self.method}-{self.base}-lr{self.lr:g}-{code}-seed{self.seed}"

    def overlay(self, folder: Path) -> dict[str, Any]:
        """Overlay that turns ``hero_pl fit`` into this cell."""
        tree = nested(
            {
                **self.on_top,
                "seed_everything": self.seed,
                "data.seed": self.seed,
                "model.lr": self.lr,
                "model.policy.init_args.pretrained": self.policy,
                "turn_budget.max_turns": max(self.budgets),
                "held_out": {
                    "episodes": self.episodes,
                    "stage": self.stage,
                    "at_turns": list(self.budgets),
                    "greedy": True,
                    "method": self.label,
                    "logged_episodes": 0,
                    "block": self.base,
                },
                "trajectories.every_n_steps": 0,
                "trainer.enable_progress_bar": False,
                "checkpoint": {"every_n_steps": 1_000_000, "every_minutes": SAVED_AFTER_MIN, "keep": 1},
                "trainer.logger.init_args": {"save_dir": str(folder.parent), "name": folder.name, "version": 0},
                **dict(self.more),
            }
        )
        overlay: dict[str, Any] = located(tree)
        return overlay

    def arguments(self, folder: Path) -> list[str]:
        """Arguments for ``hero_pl``, after :meth:`overlay` was written to the folder; they start the run or go on."""
        files = [str(ROOT / path) for path in self.configs] + [str(folder / "overlay.yaml")]
        return ["fit", "--resume", "auto", *(word for file in files for word in ("--config", file))]


def digest(path: Path) -> str:
    """Digest of a file's content; empty if there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def digests(folder: Path) -> dict[str, str]:
    """Digests of the files of a folder of weights, by name; empty if there is no such folder."""
    return {path.name: digest(path) for path in sorted(folder.glob("*.*"))} if folder.is_dir() else {}


def _pretrained(settings: Any) -> set[str]:
    """All values of ``pretrained`` anywhere in settings."""
    if isinstance(settings, dict):
        own = {v for k, v in settings.items() if k.rpartition(".")[2] == "pretrained" and isinstance(v, str)}
        return own.union(*map(_pretrained, settings.values()))
    return set().union(*map(_pretrained, settings)) if isinstance(settings, list) else set()


def result_of(cell: Cell, out: Path) -> dict[str, Any] | None:
    """Result of the cell, or ``None`` if it has not ended."""
    path = cell.folder(out) / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def finished(out: Path) -> list[tuple[Cell, dict[str, Any], Path]]:
    """The cells below a folder that are done, with their results and folders, whatever code they were run with."""
    names = {field.name for field in fields(Cell)}
    found = []
    for path in sorted(out.rglob("result.json")):
        said = json.loads((path.parent / "cell.json").read_text(encoding="utf-8"))
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
        values["more"] = tuple(values.get("more", {}).items())
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["status"] == DONE:
            cell = Cell(**{name: value for name, value in values.items() if name in names})
            found.append((cell, result, path.parent))
    return found


def left_out(out: Path) -> list[tuple[Path, str]]:
    """Folders of the cells below a folder that are not done, with the reason."""
    found = []
    for path in sorted(out.rglob("cell.json")):
        result = path.parent / "result.json"
        said = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else NOTHING
        if said["status"] != DONE:
            reason = f"{CRASHED} with {said['error']}" if said["status"] == CRASHED else "it has no result"
            found.append((path.parent, reason))
    return found


# -- one cell --------------------------------------------------------------------------------------------------------


def run_cell(cell: Cell, out: Path) -> str:
    """Run a cell in this process, or go on with it, and store its result, also if the run fails; return its status."""
    folder = cell.folder(out)
    goes_on = can_go_on(folder)
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
    prepare(cell, out)
    (folder / "version_0").mkdir(exist_ok=True)
    error, started = "", time.monotonic()
    with (folder / "log.txt").open("a", encoding="utf-8") as log, _into(log):
        try:
            if cell.method == BASE:
                _evaluate(cell, folder)
            else:
                from hero_pl.cli.main import main

                main(cell.arguments(folder))
        except Interrupted:
            raise  # it has saved itself and has no result
        except (Exception, SystemExit) as problem:
            traceback.print_exc()
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
    status = keep(cell, out, error, None if goes_on else time.monotonic() - started, folder)
    if status == DONE:
        shutil.rmtree(folder / "version_0" / "checkpoints", ignore_errors=True)
    return status


def can_go_on(folder: Path) -> bool:
    """Whether a cell that was interrupted, or has crashed, has saved itself and was run with the code of now."""
    saved = any((folder / "version_0" / "checkpoints").glob("*.ckpt"))
    return saved and json.loads((folder / "cell.json").read_text(encoding="utf-8"))["commit"] == commit()


def prepare(cell: Cell, out: Path) -> str:
    """Write ``cell.json`` and the overlay of a cell; return the command that runs it."""
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    said = json.dumps({**cell.identity(), "commit": commit()}, indent=2)
    (folder / "cell.json").write_text(said + "\n", encoding="utf-8")
    text = yaml.safe_dump(cell.overlay(folder), sort_keys=False)
    command = shlex.join(["hero_pl", *cell.arguments(folder)])
    (folder / "overlay.yaml").write_text(f"# {command}\n{text}", encoding="utf-8")
    return command


def adopt(cell: Cell, out: Path) -> None:
    """Store the result of a run that was started by its command, without this script."""
    folder = cell.folder(out)
    if not (folder / "result.json").is_file() and (folder / "version_0" / "summary.json").is_file():
        keep(cell, out, "")


def keep(cell: Cell, out: Path, error: str, wall_s: float | None = None, folder: Path | None = None) -> str:
    """Write ``result.json`` from the files of the run; return the status.

    A cell crashed with an error, and if it learned nothing although its method always can.

    Args:
        cell: The cell.
        out: Folder of all cells.
        error: What ended the run; empty if it ended by itself.
        wall_s: Seconds that the run took, if known.
        folder: Folder of the cell; default: the one of its settings and weights as they are now.
    """
    folder = folder or cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    spent = _spent(folder / "version_0" / "metrics.csv")
    if not error and spent and method_of(cell.method).always_learns and not any(one["steps"] for _, one in spent):
        error = f"no optimizer step: nothing was learned from any of {len(spent)} batches; the log says why"
    status = CRASHED if error else DONE
    said = folder / "cell.json"
    made_on = json.loads(said.read_text(encoding="utf-8"))["commit"] if said.is_file() else commit()
    result = {"status": status, "error": error, "wall_s": wall_s, "commit": made_on}
    result["curve"] = curve(folder / "version_0")
    part = folder / "result.part"
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / "result.json")
    return status


def _evaluate(cell: Cell, folder: Path) -> None:
    """Evaluate the base policy on the same held-out episodes as the other methods before their first step."""
    from hero_pl.cli.lightning import instantiate

    cli = instantiate(cell.arguments(folder)[1:])
    cli.model.policy.load()
    held_out = next(one for one in cli.trainer.callbacks if type(one).__name__ == "HeldOut")
    result, played = held_out.measure(cli.datamodule, cli.model.policy)
    held_out.write(folder / "version_0", cell.seed, 0, played)
    summary = {"curve": {"0": {**result, "turns_used": 0, "train_cpu_s": 0.0}}}
    (folder / "version_0" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def curve(run: Path) -> dict[str, dict[str, Any]]:
    """Results per budget of a run folder; for an unfinished run up to the last budget it reached."""
    summary = run / "summary.json"
    if summary.is_file():
        results: dict[str, dict[str, Any]] = json.loads(summary.read_text(encoding="utf-8"))["curve"]
    else:
        results = _partial(run / EVAL_FILE)
    spent = _spent(run / "metrics.csv")
    found = {}
    for mark, result in results.items():
        used = result.get("turns_used", int(mark))
        sums = dict.fromkeys((*SPENT, "steps"), 0.0)
        for turns, values in spent:
            if turns <= used:
                sums = {name: sums[name] + values[name] for name in sums}
        found[mark] = {**{name: result.get(name) for name in VALUES}, **{name: int(v) for name, v in sums.items()}}
    return found


def _partial(path: Path) -> dict[str, dict[str, Any]]:
    """Means per budget over the evaluable episodes of a crashed run; its last line may be torn."""
    rows = [row for _, row in read_lines(path) if row.get("evaluable", True)] if path.is_file() else []
    marks = dict.fromkeys(row["turns_budget"] for row in rows)
    found: dict[str, dict[str, Any]] = {}
    for mark in marks:
        of_mark = [row for row in rows if row["turns_budget"] == mark]
        found[str(mark)] = {
            **{key: sum(row[key] for row in of_mark) / len(of_mark) for key in ("success", "reward", "turns")},
            "episodes": len(of_mark),
        }
    return found


def _spent(path: Path) -> list[tuple[float, dict[str, float]]]:
    """Per training step: turns used so far, and the cost of the step."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("rollout/action_tokens")]
    return [
        (
            float(row["train/turns"]),
            {
                **{name: float(row.get(column) or 0.0) for name, column in SPENT.items()},
                "steps": float(row.get("train/updates") or 1.0 - float(row.get("train/skipped_steps") or 0.0)),
            },
        )
        for row in rows
    ]


class _into:
    """Redirects all output of this process (also of C code) to a file."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def __enter__(self) -> None:
        self.saved = [os.dup(number) for number in (1, 2)]
        self._point([self.log.fileno()] * 2)

    def __exit__(self, *error: object) -> None:
        self._point(self.saved)
        for number in self.saved:
            os.close(number)

    @staticmethod
    def _point(targets: Sequence[int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, target in zip((1, 2), targets, strict=True):
            os.dup2(target, number)


# -- rows ------------------------------------------------------------------------------------------------------------


def rows_of(cell: Cell, result: dict[str, Any] | None, tuned: bool) -> list[dict[str, Any]]:
    """One row per budget, including the untrained policy at 0; also for cells that crashed or were not run."""
    result = result or dict(NOTHING)
    marks = [0] if cell.method == BASE else [0, *cell.budgets]
    empty = dict.fromkeys((*VALUES, *SPENT, "steps"))
    return [
        {
            "suite": cell.suite,
            "method": cell.method,
            "base": cell.base,
            "lr": "" if cell.method == BASE else f"{cell.lr:g}",
            "tuned": tuned,
            "seed": cell.seed,
            "stage": cell.stage,
            "budget": mark,
            "status": result["status"],
            **{key: _short(value) for key, value in (empty | result["curve"].get(str(mark), {})).items()},
            "wall_s": _short(result["wall_s"]),
            "commit": result["commit"],
            "error": result["error"],
        }
        for mark in marks
    ]


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
