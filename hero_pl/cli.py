"""The command line: Lightning's subcommands for training, small commands that need no model for everything else."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from hero_pl.errors import ConfigError, HeroError

TRAINING = ("fit", "validate", "test", "predict")
USAGE = """usage: hero_pl COMMAND [options]

Train and evaluate (each takes --config FILE, more than one overlays; --print_config shows the result):
  fit         train a policy            validate, test   evaluate on held-out tasks
  predict     play held-out tasks

Look at runs and environments (hero_pl COMMAND --help):
  view        trajectories.jsonl as one HTML page, or in the terminal
  plot        curves of runs            compare          difference of runs, with intervals
  rollout     play a policy and write trajectories.jsonl
  export      write the weights of a checkpoint as a Hugging Face folder
  envs        list the environments     check-env        prove that an environment keeps the contract
  components  list what a configuration can swap
  import-tau-bench  import the official TauBench data from a checkout
"""


def main(args: list[str] | None = None) -> None:
    """Run one command; a :class:`HeroError` ends it with its message and exit status 1."""
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
        elif command in COMMANDS:
            _run(command, _one_list(command, args[1:]))
        else:
            near = difflib.get_close_matches(command, [*TRAINING, *COMMANDS], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"No command {command!r}.{hint} List them with: hero_pl --help")
    except (HeroError, ValueError) as error:
        known = _cause(error)
        if known is None:
            raise
        print(f"hero_pl: {known}", file=sys.stderr)
        raise SystemExit(1) from error


def _cause(error: BaseException | None) -> HeroError | None:
    """The project's own error behind one that the parser of the configuration has wrapped."""
    while error is not None and not isinstance(error, HeroError):
        error = error.__cause__ or error.__context__
    return error


def _run(command: str, args: list[str]) -> None:
    """Required arguments go by position; ``rollout`` takes ``--config``, as the training commands do."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"hero_pl {command}", description=(COMMANDS[command].__doc__ or "").split("\n")[0])
    parser.add_function_arguments(COMMANDS[command], as_positional=command != "rollout")
    COMMANDS[command](**parser.instantiate_classes(parser.parse_args(args)).as_dict())


def _one_list(command: str, args: list[str]) -> list[str]:
    """Several run folders in a row become the one list that the parser expects."""
    if command not in ("plot", "compare"):
        return args
    count = next((i for i, word in enumerate(args) if word.startswith("-")), len(args))
    return [json.dumps(args[:count]), *args[count:]] if count and not args[0].startswith("[") else args


def run_lightning(args: list[str]) -> Any:
    """``fit``, ``validate``, ``test``, ``predict``."""
    from hero_pl.lightning_cli import HeroCLI

    return HeroCLI(args=args)


# -- commands that need no trainer -----------------------------------------------------------------------------------


def view(records: Path, out: Path | None = None, terminal: bool = False, limit: int = 20) -> None:
    """Show trajectories.

    Args:
        records: A trajectories.jsonl, or a run folder.
        out: The page to write; default: beside the records.
        terminal: Print to the terminal instead.
        limit: Episodes to print.
    """
    path = records / "trajectories.jsonl" if records.is_dir() else records
    if terminal:
        from hero_pl.viewer.terminal import print_terminal

        print_terminal(path, limit)
        return
    from hero_pl.viewer.page import write_html

    target = out or path.with_suffix(".html")
    print(f"Wrote {write_html(path, target)} episodes to {target}")


def plot(runs: list[Path], out: Path = Path("curves.png")) -> None:
    """Draw success, turns and coverage of runs against training turns.

    Args:
        runs: Run folders.
        out: The PNG to write.
    """
    from hero_pl.plots import plot_runs

    plot_runs(runs, out)
    print(f"Wrote {out}")


def compare(
    runs: list[Path],
    baseline: str | None = None,
    metric: Literal["success", "reward", "turns"] = "success",
    markdown: bool = False,
) -> None:
    """Difference between methods, paired by task and seed, with a 95 % interval.

    Args:
        runs: Run folders with eval.jsonl.
        baseline: Method that the others are compared with.
        metric: What is compared.
        markdown: Print a Markdown table.
    """
    from hero_pl.compare import compare_runs, print_comparison, to_markdown

    found = compare_runs(runs, baseline, metric)
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
    from hero_pl.lightning_cli import export_checkpoint

    export_checkpoint(checkpoint, folder, config)
    print(f"Wrote {folder}")


def components() -> None:
    """List what a configuration can swap: every class of each base, with its first sentence."""
    from hero_pl.lightning_cli import registered

    for base, classes in registered().items():
        print(f"{base}:")
        for cls in classes:
            print(f"  {cls.__name__:24} {(cls.__doc__ or '').strip().splitlines()[0] if cls.__doc__ else ''}")


def rollout(
    config: Path,
    episodes: int = 64,
    out: Path = Path("trajectories.jsonl"),
    stage: str = "test",
    trials: int = 1,
) -> None:
    """Play a policy on held-out tasks, write its trajectories and print what they say.

    Args:
        config: A configuration of ``fit``.
        episodes: How many; 0 plays every task of the split.
        out: File to append to.
        stage: ``train``, ``validate`` or ``test``.
        trials: Play each of them so often; with more than one, pass^k and pass@k are printed.
    """
    from hero_pl.lightning_cli import play

    print(play(config, episodes, out, stage, trials))


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
