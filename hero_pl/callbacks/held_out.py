"""Evaluate on held-out tasks before, during and after training, and print a summary."""

from __future__ import annotations

import functools
import json
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import lightning
from rich.console import Console
from rich.table import Table

from hero_pl.callbacks.run_folder import run_folder
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.errors import ConfigError, EnvError, check_choice
from hero_pl.evaluation.summary import logged, remarks, summarize
from hero_pl.policy.base import Policy
from hero_pl.policy.sampling import Sampling
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.environments import ABOUT_SCORE, contents
from hero_pl.runs.evaluations import EVAL_FILE
from hero_pl.runs.jsonl import append_lines, finite
from hero_pl.runs.records import RECORDS_FILE, Record, append_records, evaluable, records_path, succeeded
from hero_pl.types import Trajectory

MOST_COMPARED = 100
"""Maximum number of tasks of a split that are compared with others; a limit in seconds would depend on the machine."""


class HeldOut(lightning.Callback):
    """Plays held-out episodes at given training turns; writes ``eval.jsonl`` and ``summary.json``.

    Args:
        episodes: Episodes per evaluation; 0 switches this off.
        stage: Held-out tasks to use: ``test`` or ``validate``.
        at_turns: Numbers of training turns at which to evaluate, in addition to before and after training.
        greedy: Also evaluate with greedy sampling.
        method: Name of the method for ``hero_pl compare``; default: the run's name without its seed.
        logged_episodes: Episodes per evaluation that are written to ``trajectories.jsonl``; ``eval.jsonl`` has all.
        block: Runs are paired by this value and their seed; for example the base policy that they start from.
    """

    def __init__(
        self,
        episodes: int = 0,
        stage: Literal["test", "validate"] = "test",
        at_turns: list[int] | None = None,
        greedy: bool = False,
        method: str | None = None,
        logged_episodes: int = 20,
        block: str = "",
    ) -> None:
        check_choice("HeldOut", "stage", stage, ("test", "validate"))
        if episodes < 0:
            raise ConfigError(f"held_out.episodes={episodes}: expected a positive number, or 0 for no evaluation.")
        if logged_episodes < 0 or any(mark < 1 for mark in at_turns or []):
            raise ConfigError(
                f"held_out.at_turns={at_turns}, held_out.logged_episodes={logged_episodes}: expected numbers of turns "
                "above 0, and 0 episodes or more."
            )
        self.episodes, self.stage, self.greedy, self.method = episodes, stage, greedy, method
        self.at_turns, self.logged_episodes, self.block = sorted(at_turns or []), logged_episodes, block
        self.results: dict[str, dict[str, Any]] = {}
        """Results by the number of training turns, as text."""
        self.checked_turns: int | None = None
        """Training turns when all evaluations that were due had been done; ``None`` before training."""
        self._latest: tuple[int, dict[str, Any], list[Trajectory]] | None = None
        """Training turns, metrics and episodes of the latest evaluation."""
        self.elapsed_s = 0.0
        self.cpu_s = 0.0
        """CPU time of training in seconds, without evaluations (which ``elapsed_s`` includes)."""
        self._started = 0.0
        self._cpu_mark = time.process_time()

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Create the environments of the held-out tasks, so that wrong arguments are refused early."""
        if stage == "fit" and self.episodes:
            trainer.datamodule.collector(self.stage)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Evaluate the policy before training."""
        self._started, self._cpu_mark = time.monotonic(), time.process_time()
        if self.checked_turns is None:  # a new run, or one that had no such callback before it was resumed
            self.checked_turns = int(module.turns) or -1
        if self.episodes and not self.results:
            self._tell_shared_tasks(trainer.datamodule)  # type: ignore[attr-defined]
        missed = [mark for mark in self._open_marks() if self._is_missed(mark, int(module.turns))]
        if missed and trainer.is_global_zero:
            warnings.warn(
                f"The run had made {int(module.turns)} turns when the evaluations at {missed} turns were set. They are "
                "left out, because the weights have been trained since."
                + (" The summary has no result from before training." if 0 in missed else ""),
                stacklevel=2,
            )
        self._evaluate_due(trainer, module)  # the run may have been interrupted during an evaluation

    def _tell_shared_tasks(self, data: Any) -> None:
        shared = set(data.collector("train").task_ids) & set(data.collector(self.stage).task_ids)
        if shared:
            warnings.warn(
                f"{len(shared)} of the {self.stage} tasks of {data.env} are also training tasks, so the success rate "
                "is not held out. The argument split of an environment selects its tasks; set the splits in "
                "data.splits.",
                stacklevel=2,
            )
            return
        try:
            trained = set(_contents(data.collector("train")))
            held_out = _contents(data.collector(self.stage), self.episodes)
        except EnvError as error:
            warnings.warn(f"The {self.stage} tasks were not compared with the training tasks: {error}", stacklevel=2)
            return
        same = sum(content in trained for content in held_out)
        if same:
            warnings.warn(
                f"{same} of {len(held_out)} {self.stage} tasks of {data.env} are training tasks with other seeds, so "
                "their success rate is not held out (docs/environments.md). Choose a game or settings with more tasks.",
                stacklevel=2,
            )

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Evaluate at each mark that was just reached."""
        self._evaluate_due(trainer, module)

    def _evaluate_due(self, trainer: lightning.Trainer, module: Any) -> None:
        turns = int(module.turns)
        for mark in self._open_marks():
            if turns >= mark and not self._is_missed(mark, turns):
                self._evaluate(trainer, module, mark)
        self.checked_turns = turns  # not before they are done: an interrupted evaluation is repeated

    def _open_marks(self) -> list[int]:
        """Numbers of turns at which an evaluation is wanted that has no result yet."""
        return [mark for mark in (0, *self.at_turns) if self.episodes and str(mark) not in self.results]

    def _is_missed(self, mark: int, turns: int) -> bool:
        """Whether the weights of an open mark are gone: the run was there before the mark was set."""
        return self.checked_turns is not None and mark <= self.checked_turns and mark < turns

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Evaluate the trained policy; write the summary, the curves and the page."""
        if not self.episodes:
            return
        folder = run_folder(trainer)  # the evaluation below is a collective: every rank has to run it
        turns = int(module.turns)
        budget = _spent_budget(trainer, turns)
        measured = any(result["turns_used"] == turns for result in self.results.values())
        if not measured or (budget is not None and str(budget) not in self.results):
            self._evaluate(trainer, module, turns if budget is None else budget)
        if not trainer.is_global_zero:
            return
        shown = {"before": self.results["0"]} if "0" in self.results else {}
        shown["after"] = max(self.results.values(), key=lambda result: result["turns_used"])
        drop = ("turns_used", "tokens", "train_cpu_s")
        summary = {
            **{when: {key: value for key, value in one.items() if key not in drop} for when, one in shown.items()},
            "training_turns": int(module.turns),
            "seed": trainer.datamodule.seed,  # type: ignore[attr-defined]
            "wall_time_s": round(self.elapsed_s + time.monotonic() - self._started, 1),
            "method": self._name(folder),
            "curve": self.results,
        }
        if folder is not None:
            (folder / "summary.json").write_text(json.dumps(finite(summary), indent=2) + "\n", encoding="utf-8")
        try:
            _print(summary)
            if (
                folder is not None and (folder / RECORDS_FILE).exists()
            ):  # a finished run that is resumed plays no episode
                self._draw(folder, module)
        except Exception as error:
            # an error in the report must not fail a run that is trained, evaluated and saved
            warnings.warn(f"The report failed ({type(error).__name__}: {error}); the run is saved.", stacklevel=2)

    def _evaluate(self, trainer: lightning.Trainer, module: Any, mark: int) -> None:
        """Evaluate; the episodes of a mark count for another one that the same batch has reached."""
        turns, folder = int(module.turns), run_folder(trainer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        fresh = self._latest is None or self._latest[0] != turns
        if self._latest is None or fresh:
            self.cpu_s += time.process_time() - self._cpu_mark
            self._latest = turns, *self.measure(data, module.policy)
        _, result, played = self._latest
        self.results[str(mark)] = {**result, "turns_used": turns, "train_cpu_s": round(self.cpu_s, 2)}
        if folder is not None and trainer.is_global_zero:
            self.write(folder, data.seed, mark, played)
        if fresh:
            self._report(trainer, module, result, played)
            self._cpu_mark = time.process_time()

    def _report(
        self, trainer: lightning.Trainer, module: Any, result: dict[str, Any], played: list[Trajectory]
    ) -> None:
        """Print and log one evaluation, and keep its first episodes."""
        values = {f"test/{name}": value for name, value in logged(result).items()}
        if trainer.progress_bar_callback is not None and trainer.is_global_zero:
            low, high = result["success_ci"]
            trainer.progress_bar_callback.print(
                f"Evaluated {result['episodes']} {self.stage} episodes after {int(module.turns)} turns: success "
                f"{result['success']:.3f} ({low:.3f} to {high:.3f})"
            )
        folder = run_folder(trainer)
        if trainer.logger is not None:
            trainer.logger.log_metrics({**values, "train/turns": float(module.turns)}, step=trainer.global_step)
        if folder is not None and trainer.is_global_zero:
            append_records(
                folder / RECORDS_FILE,
                (Record(self.stage, trainer.global_step, t) for t in played[: self.logged_episodes]),
            )

    def measure(self, data: Any, policy: Policy) -> tuple[dict[str, Any], list[Trajectory]]:
        """Play the held-out episodes with a loaded policy; return the metrics and the sampled episodes."""
        played = data.evaluate(policy, self.stage, self.episodes)
        result = summarize(played, policy.dialect)
        if self.greedy:
            greedy = Sampling(0.0, data.eval_sampling.max_action_tokens)
            result["success_greedy"] = summarize(data.evaluate(policy, self.stage, self.episodes, greedy))["success"]
        return result, played

    def write(self, folder: Path, seed: int, mark: int, played: list[Trajectory]) -> None:
        """Append the episodes of one evaluation to ``eval.jsonl``."""
        append_lines(folder / EVAL_FILE, (self._row(folder, seed, mark, trajectory) for trajectory in played))

    def _row(self, folder: Path, seed: int, mark: int, trajectory: Trajectory) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "turns_budget": mark,
            "seed": seed,
            "method": self._name(folder),
            "block": self.block,
            "task_id": trajectory.task_id,
            "success": succeeded(trajectory),
            "reward": trajectory.reward,
            "turns": len(trajectory.turns),
            "evaluable": evaluable(trajectory),
            **{key: trajectory.info[key] for key in ABOUT_SCORE if key in trajectory.info},
        }

    def _name(self, folder: Path | None) -> str:
        from hero_pl.runs.plots import method_name

        return self.method or (method_name(folder / "metrics.csv") if folder else "run")

    def _draw(self, folder: Path, module: Any) -> None:
        from hero_pl.runs.plots import plot_run
        from hero_pl.runs.viewer.page import Source, write_html

        for logger in module.loggers:
            logger.save()
        tokenizer = module.policy.template.tokenizer
        spell = functools.cache(lambda one: tokenizer.decode([one]))
        records = records_path(folder)
        write_html([Source(records, lambda ids: [spell(one) for one in ids])], records.with_suffix(".html"))
        try:
            plot_run(folder, folder / "curves.png")
        except ConfigError as error:
            Console().print(f"No curves were drawn: {error}", markup=False)
        wrote = f"Wrote summary.json, metrics.csv, curves.png and trajectories.html to {folder}"
        Console().print(wrote, markup=False, soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        """Results and times so far, and up to which turns they are complete."""
        return {
            "results": self.results,
            "checked_turns": self.checked_turns,
            "elapsed_s": self.elapsed_s + time.monotonic() - self._started,
            "cpu_s": self.cpu_s + time.process_time() - self._cpu_mark,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`; of earlier ones it is not known which marks the run had passed."""
        self.checked_turns = state_dict.get("checked_turns", -1)
        self.results, self.elapsed_s = dict(state_dict["results"]), float(state_dict["elapsed_s"])
        self.cpu_s = float(state_dict.get("cpu_s", 0.0))


def _print(summary: dict[str, Any]) -> None:
    table = Table(title=f"Held-out tasks, {summary['training_turns']} training turns, {summary['wall_time_s']} s")
    rows = {when: summary[when] for when in ("before", "after") if when in summary}
    floor = any("do_nothing_floor" in row for row in rows.values())
    broken = any(row["non_evaluable"] for row in rows.values())
    for name in ("", "success", "95 % interval", *["floor"] * floor, "mean turns", "episodes", *["broken"] * broken):
        table.add_column(name)
    for when, row in rows.items():
        low, high = row["success_ci"]
        cells = [when, f"{row['success']:.3f}", f"{low:.3f} to {high:.3f}"]
        cells += [f"{row['do_nothing_floor']:.3f}" if "do_nothing_floor" in row else "-"] * floor
        cells += [f"{row['turns']:.2f}", str(row["episodes"]), *[str(row["non_evaluable"])] * broken]
        table.add_row(*cells)
    Console().print(table)
    for line in remarks(summary["after"]):
        Console().print(line, markup=False, highlight=False)


def _contents(collector: Collector, most: int = MOST_COMPARED) -> list[str]:
    """Contents of the first tasks; empty for an environment that does not tell them."""
    return list(contents(collector.env, collector.task_ids[: min(most, MOST_COMPARED)]))


def _spent_budget(trainer: lightning.Trainer, turns: int) -> int | None:
    """The run's turn budget if it is spent: the mark of its last evaluation, by which runs are compared."""
    budgets = [callback.max_turns for callback in trainer.callbacks if isinstance(callback, TurnBudget)]  # type: ignore[attr-defined]
    return next((budget for budget in budgets if 0 < budget <= turns), None)
