"""Generate the games of :mod:`hero_envs.bridges.textworld`, and keep them in a folder of the user.

A file is named by a hash of everything that determines its game, so one folder serves all runs. A game is written to a
temporary folder and moved into place: processes that generate the same game at once do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hero_envs.bridges.base import package
from hero_envs.user_folders import user_folder

CACHE_VARIABLE = "HERO_TEXTWORLD_GAMES"
"""Environment variable with the folder of the generated games."""
FORMAT = 1
"""Part of the name of a game; another number generates all games again."""


@dataclass(frozen=True, slots=True)
class Level:
    """A difficulty: the options of the generator, and the limit of turns."""

    rooms: int
    objects: int
    quests: int
    """Number of independent quests; each is one point."""
    length: int
    """Number of commands of the shortest solution of a quest."""
    goal_only: bool
    """Whether the objective names only the last command of each quest, not the way to it."""
    max_steps: int


LEVELS: Mapping[str, Level] = {
    "tiny": Level(rooms=1, objects=4, quests=1, length=2, goal_only=False, max_steps=4),
    "easy": Level(rooms=1, objects=5, quests=2, length=2, goal_only=False, max_steps=6),
    "medium": Level(rooms=2, objects=6, quests=2, length=3, goal_only=False, max_steps=12),
    "hard": Level(rooms=4, objects=8, quests=1, length=6, goal_only=True, max_steps=20),
}


def check_package() -> Any:
    """TextWorld itself.

    Raises:
        ImportError: It is not installed; names the extra.
    """
    return package("textworld", "textworld", "TextWorld")


def games_folder() -> Path:
    """Default folder of generated games: the user's cache folder."""
    return user_folder("cache", "textworld", CACHE_VARIABLE)


def game_file(level: Level, seed: int, folder: Path) -> Path:
    """Path of a compiled game, which is generated if it is not there.

    Args:
        level: Its difficulty.
        seed: Seed of the generator.
        folder: Folder of generated games.
    """
    options = {**asdict(level), "seed": seed, "format": FORMAT, "textworld": version("textworld")}
    options.pop("max_steps")
    name = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{name}.z8"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="part-") as part:
            made = Path(_generate(level, seed, Path(part) / path.name))
            made.with_suffix(".json").replace(path.with_suffix(".json"))
            made.replace(path)  # last: a game is complete if this file is there
    return path


def start(path: Path) -> Any:
    """Open a game with all that :class:`hero_envs.bridges.textworld.TextWorldEnv` reads."""
    wanted = ("feedback", "description", "inventory", "admissible_commands", "policy_commands", "objective")
    infos = check_package().EnvInfos(**dict.fromkeys(wanted, True), score=True, max_score=True, won=True, lost=True)
    with warnings.catch_warnings():  # the interpreter warns about every game that it does not know by name
        warnings.filterwarnings("ignore", "Game .* is not fully supported")
        return check_package().start(str(path), request_infos=infos)


def _generate(level: Level, seed: int, path: Path) -> str:
    textworld = check_package()
    options = textworld.GameOptions()
    options.seeds = seed
    options.nb_rooms, options.nb_objects = level.rooms, level.objects
    options.nb_parallel_quests, options.quest_length = level.quests, level.length
    options.grammar.only_last_action = level.goal_only
    options.path = str(path)
    game = textworld.generator.make_game(options)
    game.objective = objective(game.objective)
    made: str = textworld.generator.compile_game(game, options)
    return made


_GREETING = re.compile(r".*(?:TextWorld!|You do!|for today\.|how to play!|do for me\.|is to|Please) ")
_FAREWELL = re.compile(
    r" (?:Once that's all handled, you can stop!|And once you've done that, you win!|And if you do that, you're the "
    r"winner!|That's it!|Got that\? Good!|Alright, thanks!)$"
)


def objective(text: str) -> str:
    """The instructions of a game without the greeting before and the sentence after them."""
    text = _FAREWELL.sub("", _GREETING.sub("", " ".join(text.split())))
    return text[:1].upper() + text[1:]
