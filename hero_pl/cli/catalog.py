"""Commands that list or check components, configurations, environments and their data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hero_pl.errors import HeroError

PANEL = "Components, configurations, environments"

app = typer.Typer()


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl components --import your_package")
def components(
    config: Annotated[
        str | None, typer.Option("--config", help="Also list components of packages that this configuration uses.")
    ] = None,
    packages: Annotated[
        list[str] | None, typer.Option("--import", help="Also list components of this package; can be repeated.")
    ] = None,
) -> None:
    """List the components that a configuration can use, by kind, each with a short description."""
    from hero_pl.cli.components import describe, import_named, named_in

    import_named([*(packages or []), *(named_in(config) if config else [])])
    print(describe())


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl configs")
def configs() -> None:
    """List the configurations of the package; every --config option accepts their names."""
    from hero_pl.cli.configs import describe

    print(describe())


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl envs")
def envs() -> None:
    """List the environments of the package."""
    import gymnasium

    from hero_pl.rollout.environments import register

    register()
    for name in sorted(name for name in gymnasium.registry if name.startswith("hero_pl/")):
        print(name)


def _mapping(text: str) -> dict[str, Any]:
    """Parse keys and values on a command line."""
    from hero_pl.cli.configs import load_text

    values = load_text(text)
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{text!r}: expected keys and values, such as '{{size: 30}}'")
    return values


@app.command(
    "check-env",
    rich_help_panel=PANEL,
    epilog="Example: hero_pl check-env hero_pl/PocketRetail-v0 --env_args '{size: 30, tasks: 60}'",
)
def check_environment(
    env: Annotated[str, typer.Argument(help="Gymnasium id; package:Id for an environment of another package.")],
    env_args: Annotated[
        Any, typer.Option("--env_args", help="Arguments of the environment.", parser=_mapping, metavar="YAML")
    ] = None,
) -> None:
    """Check that an environment follows the API."""
    from hero_pl.rollout.check_env import check_env
    from hero_pl.rollout.environments import check_id

    check_id(env)
    problems = check_env(env, **(env_args or {}))
    if problems:
        raise HeroError(f"{env} does not follow the API:\n" + "\n".join(f"  - {problem}" for problem in problems))
    print(f"{env} follows the API.")


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl play hero_pl/WebShopPocket-v0 --seed 3")
def play(
    env: Annotated[str, typer.Argument(help="Gymnasium id; package:Id for an environment of another package.")],
    env_args: Annotated[
        Any, typer.Option("--env_args", help="Arguments of the environment.", parser=_mapping, metavar="YAML")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Task to play; default: chosen by the seed.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the episode.")] = 0,
) -> None:
    """Play an environment by hand: you type the actions."""
    from hero_pl.cli.play import play_by_hand

    print(play_by_hand(env, env_args or {}, task, seed))


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl init my_env && cd my_env && hero_pl fit --config run.yaml")
def init(
    folder: Annotated[Path, typer.Argument(help="New folder; its name becomes that of the Python module.")],
) -> None:
    """Write a project to start from: an environment of 35 lines, a run that trains on it, and tests."""
    from hero_pl.cli.project_files import write_project

    for path in write_project(folder):
        print(f"Wrote {path}")
    print(f"Go on with: cd {folder}, and the commands in README.md")


@app.command(
    "import-tau-bench", rich_help_panel=PANEL, epilog="Example: hero_pl import-tau-bench tau-bench --target data"
)
def import_tau_bench(
    source: Annotated[
        Path, typer.Argument(help="A checkout of the original repository, or a folder of an earlier import.")
    ],
    target: Annotated[
        Path | None, typer.Option("--target", help="Folder to write to; default: the user's data folder.")
    ] = None,
) -> None:
    """Import the official TauBench data. Its files are parsed, never executed."""
    from hero_pl.rollout.environments import import_tau_bench_data

    print(import_tau_bench_data(source, target))
