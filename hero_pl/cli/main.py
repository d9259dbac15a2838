"""The command line: Lightning's subcommands for training, small commands that need no model for everything else."""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_type_hints

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.records import RECORDS_FILE

Stage = Literal["train", "validate", "test"]
TRAINING = ("fit", "validate", "test", "predict")
USAGE = """usage: hero_pl COMMAND [options]

Train and evaluate (each takes --config FILE, more than one overlays; --print_config shows the result):
  fit         train a policy            validate, test   evaluate on held-out tasks
  predict     play held-out tasks       check-hints      measure which hints a policy can read

Look at runs and environments (hero_pl COMMAND --help):
  view        trajectories.jsonl as one HTML page, or in the terminal
  plot        curves of runs            compare          difference of runs, with intervals
  rollout     play a policy and write trajectories.jsonl
  export      write the weights of a checkpoint as a Hugging Face folder
  envs        list the environments     check-env        prove that an environment keeps the contract
  annotate    quality of diagnoses: sample, label, form, judge, oracle, outcome, report
  components  list what a configuration can swap; --config FILE or --import PACKAGE adds your own
  import-tau-bench  import the official TauBench data from a checkout
"""


def main(args: list[str] | None = None) -> None:
    """Run one command; a :class:`HeroError` ends it with its message and status 1, Ctrl-C with one line and 130."""
    args = sys.argv[1:] if args is None else args
    command = args[0] if args else "--help"
    try:
        if command in ("-h", "--help"):
            print(USAGE)
        elif command == "--version":
            from hero_pl import __version__

            print(__version__)
        elif command in TRAINING:
            run_lightning(args)
        elif command == "annotate":
            annotate(args[1:])
        elif command == "check-hints":
            check_hints(args[1:])
        elif command in COMMANDS:
            _run(command, COMMANDS[command], args[1:])
        else:
            near = difflib.get_close_matches(command, [*TRAINING, *COMMANDS, "annotate", "check-hints"], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"No command {command!r}.{hint} List them with: hero_pl --help")
    except (HeroError, ValueError) as error:
        known = _cause(error)
        if known is None:
            raise
        print(f"hero_pl: {known}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        print(f"hero_pl: {command} was interrupted", file=sys.stderr)
        raise SystemExit(130) from error  # 128 + SIGINT, as shells say it


@contextmanager
def _quick_end(command: str) -> Iterator[None]:
    """Ctrl-C while torch is imported: numpy and torch swallow the exception and fail later with one of their own."""

    def end(*_: object) -> None:
        print(f"hero_pl: {command} was interrupted", file=sys.stderr, flush=True)
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cause(error: BaseException | None) -> HeroError | None:
    """The project's own error behind one that the parser of the configuration has wrapped."""
    while error is not None and not isinstance(error, HeroError):
        error = error.__cause__ or error.__context__
    return error


def _run(command: str, function: Callable[..., None], args: list[str]) -> None:
    """Required arguments go by position; ``--terminal`` alone means true."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"hero_pl {command}", description=(function.__doc__ or "").split("\n")[0])
    parser.add_function_arguments(function, as_positional=True)
    switches = {f"--{name}" for name, kind in get_type_hints(function).items() if kind is bool}
    words: list[str] = []
    for word in args:
        if words and words[-1] in switches:
            joined = word in ("true", "false")
            words[-1] += f"={word}" if joined else "=true"
            if joined:
                continue
        words.append(word)
    if words and words[-1] in switches:
        words[-1] += "=true"
    function(**parser.instantiate_classes(parser.parse_args(_one_list(command, words))).as_dict())


def _one_list(command: str, args: list[str]) -> list[str]:
    """Several run folders, ``--import`` or ``--config``, wherever they stand, become the one list that is expected.

    Every option of these commands takes a value; that of a switch is joined to it with ``=`` already.
    """
    repeated = {"components": ("--import", "--packages+"), "rollout": ("--config", "--config+")}
    if command in repeated:
        name, adds = repeated[command]
        return [re.sub(rf"^{name}(?==|$)", adds, word) for word in args]
    if command not in ("plot", "compare", "annotate report"):
        return args
    folders, options, rest = [], [], iter(args)
    for word in rest:
        if not word.startswith("-"):
            folders.append(word)
            continue
        options.append(word)
        if "=" not in word and word not in ("-h", "--help"):
            options += [value for value in [next(rest, None)] if value is not None]
    if not folders or folders[0].startswith("["):
        return args
    return [json.dumps(folders), *options]


def annotate(args: list[str]) -> None:
    """One of the commands of :mod:`hero_pl.cli.annotate`."""
    from hero_pl.cli import annotate as commands

    name = args[0] if args else "--help"
    if name in ("-h", "--help"):
        print(commands.__doc__)
        return
    if name not in commands.COMMANDS:
        known = ", ".join(commands.COMMANDS)
        raise ConfigError(f"hero_pl annotate has no command {name!r}. There are: {known}. See hero_pl annotate --help")
    _run(f"annotate {name}", commands.COMMANDS[name], args[1:])


def check_hints(args: list[str]) -> None:
    """Measure which wording of the hint a policy can read; takes every option of ``fit`` besides its own."""
    import argparse

    parser = argparse.ArgumentParser("hero_pl check-hints", description=check_hints.__doc__, allow_abbrev=False)
    parser.add_argument("--episodes", type=int, default=16, help="training episodes to play")
    parser.add_argument("--turns", type=int, default=16, help="blamed turns, and turns called right, at most")
    parser.add_argument(
        "--labels", default="auto", help="diagnoses: rules, reflector, or auto (rules if there are any)"
    )
    parser.add_argument(
        "--templates", nargs="+", help="wordings; default: the shipped ones and the configuration's own"
    )
    parser.add_argument("--out", type=Path, default=Path("hints.json"), help="the report as JSON")
    parser.add_argument("--figure", type=Path, help="also draw it (PNG)")
    own, words = parser.parse_known_args(args)
    with _quick_end("check-hints"):
        from hero_pl.cli.check_hints import run

    run(words, **vars(own))


def run_lightning(args: list[str]) -> Any:
    """``fit``, ``validate``, ``test``, ``predict``.

    Raises:
        ConfigError: The trainer cannot work with its settings.
    """
    with _quick_end(args[0]):
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from hero_pl.cli.lightning import HeroCLI

    try:
        return HeroCLI(args=args)
    except MisconfigurationException as error:
        raise ConfigError(f"The trainer refuses its settings: {error}") from error


# -- commands that need no trainer -----------------------------------------------------------------------------------


def view(
    records: Path, out: Path | None = None, terminal: bool = False, limit: int = 20, stage: str | None = None
) -> None:
    """Show trajectories.

    Args:
        records: A trajectories.jsonl, a run folder, or a folder with one run below it.
        out: The page to write; default: beside the records.
        terminal: Print to the terminal instead.
        limit: Episodes to print; the figures below them count all.
        stage: Print only this stage, for example train or test; the page has a menu for that.
    """
    from hero_pl.runs.folders import one_run

    path = one_run(records)
    if terminal:
        from hero_pl.runs.viewer.terminal import print_terminal

        print_terminal(path, limit, stage=stage)
        return
    print(_write_page(path, out or path.with_suffix(".html")))


def _write_page(records: Path, target: Path) -> str:
    """Every token in its color if the run's tokenizer is here; else a page that has it is left alone."""
    from hero_pl.runs.viewer.page import is_per_token, write_html

    config = records.parent / "config.yaml"
    decode, missing = None, f"there is no {config}"
    if config.is_file():
        from hero_pl.cli.components import speller

        try:
            decode = speller(config)
        except HeroError as error:
            missing = str(error)
    kept = ""
    if decode is None and is_per_token(target):
        kept, target = f"; {target}, which colors every token, was kept", target.with_suffix(".turns.html")
    note = f"\nTurns are colored as a whole: {missing}{kept}." if decode is None else ""
    return f"Wrote {write_html(records, target, decode)} episodes to {target}{note}"


def plot(runs: list[Path], out: Path = Path("curves.png")) -> None:
    """Draw success, turns and coverage of runs against training turns.

    Args:
        runs: Run folders.
        out: The PNG to write.
    """
    from hero_pl.runs.plots import plot_runs

    plot_runs(runs, out)
    print(f"Wrote {out}")


def compare(
    runs: list[Path],
    baseline: str | None = None,
    metric: Literal["success", "reward", "turns"] = "success",
    budget: int | None = None,
    stage: str | None = None,
    markdown: bool = False,
) -> None:
    """Difference between methods, paired by task and run, with a 95 % interval, or "not resolved".

    Args:
        runs: Run folders with eval.jsonl, or folders of such folders.
        baseline: Method that the others are compared with.
        metric: What is compared.
        budget: Only at this number of training turns.
        stage: Only at this stage: test or validate.
        markdown: Print a Markdown table.
    """
    from hero_pl.runs.compare import compare_runs
    from hero_pl.runs.tables import print_comparison, to_markdown

    found = compare_runs(runs, baseline, metric, budget=budget, stage=stage)
    if markdown:
        print(to_markdown(found))
    else:
        print_comparison(found)


def envs() -> None:
    """List the environments of the project."""
    import gymnasium

    from hero_pl.rollout.environments import register

    register()
    for name in sorted(name for name in gymnasium.registry if name.startswith("hero_pl/")):
        print(name)


def check_environment(env: str, env_args: dict[str, Any] | None = None) -> None:
    """Prove that an environment keeps the contract.

    Args:
        env: Gymnasium id.
        env_args: Its arguments.
    """
    from hero_pl.rollout.check_env import check_env
    from hero_pl.rollout.environments import check_id

    check_id(env)
    problems = check_env(env, **(env_args or {}))
    if problems:
        raise HeroError(f"{env} breaks the contract:\n" + "\n".join(f"  - {problem}" for problem in problems))
    print(f"{env} keeps the contract.")


def import_tau_bench(source: Path, target: Path | None = None) -> None:
    """Import the official TauBench data; task files are parsed, never executed.

    Args:
        source: A checkout of the original repository, or its data as JSON.
        target: Where to store it; default: the user's data folder.
    """
    from hero_pl.rollout.environments import import_tau_bench_data

    print(import_tau_bench_data(source, target))


def export(checkpoint: Path, folder: Path, config: Path | None = None) -> None:
    """Write the weights of a checkpoint as a Hugging Face folder.

    Args:
        checkpoint: A .ckpt that ``fit`` wrote.
        folder: Where to write.
        config: The run's config.yaml; default: beside the checkpoint's folder.
    """
    with _quick_end("export"):
        from hero_pl.cli.lightning import export_checkpoint

    export_checkpoint(checkpoint, folder, config)
    print(f"Wrote {folder}")


def components(config: Path | None = None, packages: list[str] | None = None) -> None:
    """List what a configuration can swap: every class of each base, with its first sentence.

    Args:
        config: Also what the packages hold that this YAML file names.
        packages: Also what these packages or modules hold; ``--import NAME`` adds one.
    """
    from hero_pl.cli.components import describe, import_named, named_in

    import_named([*(packages or []), *(named_in(config) if config else [])])
    print(describe())


def rollout(
    config: list[Path] | None = None,
    episodes: int = 64,
    out: Path = Path(RECORDS_FILE),
    stage: Stage = "test",
    trials: int = 1,
    checkpoint: Path | None = None,
) -> None:
    """Play a policy on held-out tasks, write its trajectories and print what they say.

    Args:
        config: A configuration of ``fit``; more than one overlays. Default: the one of the checkpoint's run.
        episodes: How many; 0 plays every task of the split.
        out: File to append to.
        stage: Which tasks.
        trials: Play each of them so often; with more than one, pass^k and pass@k are printed.
        checkpoint: Play its weights: a .ckpt that ``fit`` wrote.
    """
    with _quick_end("rollout"):
        from hero_pl.cli.lightning import play

    print(play(config or [], episodes, out, stage, trials, checkpoint))


COMMANDS: dict[str, Callable[..., None]] = {
    "view": view,
    "plot": plot,
    "compare": compare,
    "envs": envs,
    "check-env": check_environment,
    "import-tau-bench": import_tau_bench,
    "export": export,
    "components": components,
    "rollout": rollout,
}
