"""TextWorld games (Côté et al., arXiv 1806.11532) as an environment: generated house games, one text command per turn.

The package generates and runs the games (``pip install 'hero_pl[textworld]'``); nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hero_envs.bridges.base import SeededEnv
from hero_envs.bridges.textworld_games import LEVELS, Level, check_package, game_file, games_folder, start

SYSTEM_PROMPT = """You play a text game. Do what the first message asks, step by step.

Send exactly one command per message, such as: open chest, take key from chest, unlock safe with key, insert coin into
box, put plate on table, eat apple, drop key, close chest, go north, look, inventory. Use the names exactly as the game
shows them."""
_COMMAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9 '-]{0,98}")
_BEYOND_THE_GAME = frozenset(
    ("save", "restore", "restart", "quit", "q", "undo", "script", "transcript", "unscript", "verify", "version", "tw")
)
REFUSED = "That is not a command of this game."
_PROMPT = re.compile(r"\n\s*>.*", re.DOTALL)
_END = re.compile(r"\s*\*\*\* The End \*\*\*.*|\s*\*\*\* You lost! \*\*\*.*|\s*Would you like to RESTART.*", re.DOTALL)


class TextWorldEnv(SeededEnv):
    """Play generated games; the reward of a turn is the share of the game's points that it won.

    Args:
        level: A name in ``LEVELS``, or the fields of a ``Level``.
        split: ``train``, ``validation``, ``test`` or ``warmup``; their games have different seeds.
        tasks: Number of games of the split.
        world: Another number gives other games, for example to choose hyper-parameters.
        show_available_actions: List the commands that the game accepts under each observation.
        max_steps: Maximum number of turns; default: that of the level.
        games_dir: Folder of generated games; default: the user's cache folder.
        system_prompt: Text that replaces the environment's own system prompt.

    ``info`` also has ``policy_commands``, the commands of a shortest solution from here on (empty if there is none),
    and at the end ``solutions``, those before each command of the episode and after the last one. A policy does not
    see them; demonstrations and oracles do.
    """

    def __init__(
        self,
        level: str | Mapping[str, Any] = "easy",
        split: str = "train",
        tasks: int | None = None,
        world: int = 0,
        show_available_actions: bool = False,
        max_steps: int | None = None,
        games_dir: str | os.PathLike[str] | None = None,
        system_prompt: str | None = None,
    ) -> None:
        check_package()
        self.level = _level(level)
        self.max_steps = self.level.max_steps if max_steps is None else max_steps
        if self.max_steps < 1:
            raise ValueError(f"max_steps={max_steps}: expected at least 1.")
        name = level if isinstance(level, str) else "custom"
        super().__init__(name, split, tasks, world, SYSTEM_PROMPT if system_prompt is None else system_prompt)
        self.folder = games_folder() if games_dir is None else Path(games_dir)
        self.show_actions = show_available_actions
        self._game: Any = None
        self._file: Path | None = None

    def begin(self, seed: int) -> tuple[str, dict[str, Any]]:
        """Start the game of a seed; the first time, it is generated in about a second."""
        file = game_file(self.level, seed, self.folder)
        if file != self._file:
            self.close()
            self._game, self._file = start(file), file
        self._steps = self._points = 0
        self._state = self._game.reset()
        self._solutions = [self._solution()]
        parts = (self._state.objective, self._state.description, self._state.inventory)
        return self._shown("\n".join(plain(part) for part in parts)), self._info()

    def act(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Send one command to the game."""
        command = " ".join(action.split())
        self._steps += 1
        gained, text = 0, REFUSED
        if is_of_the_game(command):
            self._state, points, _ = self._game.step(command)
            gained, self._points = points - self._points, points
            text = plain(self._state.feedback)
        self._solutions.append(self._solution())
        won, lost = bool(self._state.won), bool(self._state.lost)
        truncated = not (won or lost) and self._steps >= self.max_steps
        info = self._info()
        if won or lost or truncated:
            info |= {"success": won, "lost": lost, "score": self._points, "max_score": self._state.max_score}
            info |= {"steps": self._steps, "solutions": self._solutions}
        reward = max(0.0, gained / self._state.max_score)
        return self._shown(text), reward, won or lost, truncated, info

    def close(self) -> None:
        """Stop the interpreter of the game."""
        if self._game is not None:
            with suppress(Exception):  # it may have ended by itself
                self._game.close()
            self._game = self._file = None

    def _solution(self) -> list[str]:
        return [] if self._state.won or self._state.lost else list(self._state.policy_commands or [])

    def _info(self) -> dict[str, Any]:
        return {
            "available_actions": list(self._state.admissible_commands or []),
            "policy_commands": self._solutions[-1],
        }

    def _shown(self, text: str) -> str:
        if not self.show_actions or self._state.won or self._state.lost:
            return text
        return f"{text}\nAvailable actions: {', '.join(self._state.admissible_commands)}"


def _level(level: str | Mapping[str, Any]) -> Level:
    if isinstance(level, Mapping):
        try:
            return Level(**level)
        except TypeError as error:
            raise ValueError(f"level={dict(level)}: expected the fields of a Level ({error}).") from error
    if level not in LEVELS:
        raise ValueError(f"level={level!r}: expected one of {', '.join(LEVELS)}, or the fields of a Level.")
    return LEVELS[level]


def is_of_the_game(command: str) -> bool:
    """Whether a command is a single one, and one of the game: not of the interpreter, which could write files."""
    words = command.lower().split()
    if not words or not _COMMAND.fullmatch(command) or words[0].partition("-")[0] in _BEYOND_THE_GAME:
        return False
    return "then" not in words  # the game would run what follows as a second command


def plain(text: str) -> str:
    """A text of the game in one line, without the prompt of the interpreter and what follows the end."""
    return " ".join(_END.sub("", _PROMPT.sub("", text or "")).split())
