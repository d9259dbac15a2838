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

import gymnasium as gym

from hero_envs.bridges.textworld_games import LEVELS, Level, game_file, games_folder, package, start
from hero_envs.spaces import UnicodeText

SPLITS: Mapping[str, tuple[int, int]] = {
    "train": (0, 200),
    "validation": (1_000_000, 100),
    "test": (2_000_000, 200),
    "warmup": (3_000_000, 200),
}
"""Split -> first seed, and number of games unless an argument sets it."""
MOST_GAMES = 10_000
"""Maximum number of games of a split."""
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


class TextWorldEnv(gym.Env[str, str]):
    """Play generated games; the reward of a turn is the share of the game's points that it won.

    Args:
        level: A name in ``LEVELS``, or the fields of a ``Level``.
        split: ``train``, ``validation``, ``test`` or ``warmup``; their games have different seeds.
        games: Number of games of the split.
        game_seed: Another number gives other games, for example to choose hyper-parameters.
        show_available_actions: List the commands that the game accepts under each observation.
        max_steps: Maximum number of turns; default: that of the level.
        games_dir: Folder of generated games; default: the user's cache folder.
        system_prompt: Text that replaces the environment's own system prompt.

    ``info`` also has ``policy_commands``, the commands of a shortest solution from here on (empty if there is none),
    and at the end ``solutions``, those before each command of the episode and after the last one. A policy does not
    see them; demonstrations and oracles do.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the type is Gymnasium's

    def __init__(
        self,
        level: str | Mapping[str, Any] = "easy",
        split: str = "train",
        games: int | None = None,
        game_seed: int = 0,
        show_available_actions: bool = False,
        max_steps: int | None = None,
        games_dir: str | os.PathLike[str] | None = None,
        system_prompt: str | None = None,
    ) -> None:
        package()
        self.level = _level(level)
        self.max_steps = self.level.max_steps if max_steps is None else max_steps
        if self.max_steps < 1:
            raise ValueError(f"max_steps={max_steps}: expected at least 1.")
        name = level if isinstance(level, str) else "custom"
        self._seeds = {f"{name}-{seed}": seed for seed in seeds_of(split, games, game_seed)}
        self.task_ids = list(self._seeds)
        self.folder = games_folder() if games_dir is None else Path(games_dir)
        self.show_actions = show_available_actions
        self.system_prompt = SYSTEM_PROMPT if system_prompt is None else system_prompt
        self.action_space = self.observation_space = UnicodeText()
        self._game: Any = None
        self._file: Path | None = None
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the game ``options["task"]``, or a random one; the first time, it is generated in about a second.

        Raises:
            ValueError: There is no such game.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task") or self.task_ids[int(self.np_random.integers(len(self.task_ids)))]
        if task not in self._seeds:
            raise ValueError(f"task={task!r}: expected one of task_ids, for example {self.task_ids[0]!r}.")
        file = game_file(self.level, self._seeds[task], self.folder)
        if file != self._file:
            self.close()
            self._game, self._file = start(file), file
        self.task, self._steps, self._over = task, 0, False
        self._state = self._game.reset()
        self._points = 0
        self._solutions = [self._solution()]
        parts = (self._state.objective, self._state.description, self._state.inventory)
        info = {**self._info(), "system_prompt": self.system_prompt, "tools": [], "plain_replies": False}
        return self._shown("\n".join(plain(part) for part in parts)), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Send one command to the game.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, or none was started.
        """
        if self._over:
            raise gym.error.ResetNeeded("This episode is over: call reset() before the next step().")
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
        self._over = won or lost or truncated
        info = self._info()
        if self._over:
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
            "role": "user",
            "task": self.task,
            "available_actions": list(self._state.admissible_commands or []),
            "policy_commands": self._solutions[-1],
        }

    def _shown(self, text: str) -> str:
        if not self.show_actions or self._state.won or self._state.lost:
            return text
        return f"{text}\nAvailable actions: {', '.join(self._state.admissible_commands)}"


def seeds_of(split: str, games: int | None = None, game_seed: int = 0) -> range:
    """Seeds of the games of a split; no two splits and no two game seeds have one in common.

    Raises:
        ValueError: There is no such split, or a number is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}.")
    first, usual = SPLITS[split]
    count = usual if games is None else games
    if not 1 <= count <= MOST_GAMES or not 0 <= game_seed < 100:
        raise ValueError(
            f"games={games}, game_seed={game_seed}: expected 1 to {MOST_GAMES} games and a seed from 0 to 99."
        )
    return range(first + game_seed * MOST_GAMES, first + game_seed * MOST_GAMES + count)


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
