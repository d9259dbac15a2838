"""Games of TextArena (arXiv 2504.11442) for one player, such as Guess The Number, Mastermind or Frozen Lake.

``pip install 'hero_pl[textarena]'``. Some of its games download word lists; the default does not.
"""

from __future__ import annotations

from typing import Any

from hero_envs.bridges.base import SeededEnv, package
from hero_envs.bridges.randomness import OwnRandomness

SYSTEM_PROMPT = "You play a game alone. Follow its rules and reply with one move."


class TextArenaEnv(SeededEnv):
    """One game per episode; its reward comes at the end.

    The games use the generators of Python and NumPy that are global. Each episode has its own state of them, so games
    played at the same time do not disturb each other; in threads (``limits.threads``) one is stepped after the other.

    Args:
        game: Id of a game for one player, for example ``GuessTheNumber-v0``.
        split: ``train``, ``validation``, ``test`` or ``warmup``.
        tasks: Number of games of the split.
        world: Another number gives other games.
        max_steps: Maximum number of moves, with invalid ones.
        system_prompt: Text that replaces the environment's own system prompt.
    """

    def __init__(
        self,
        game: str = "GuessTheNumber-v0",
        split: str = "train",
        tasks: int | None = None,
        world: int = 0,
        max_steps: int = 20,
        system_prompt: str | None = None,
    ) -> None:
        self.package = package("textarena", "textarena", "TextArena")
        if max_steps < 1:
            raise ValueError(f"max_steps={max_steps}: expected at least 1.")
        super().__init__(game, split, tasks, world, SYSTEM_PROMPT if system_prompt is None else system_prompt)
        self.game, self.max_steps = game, max_steps
        self._randomness = OwnRandomness()
        self._made()

    def _made(self) -> Any:
        try:
            return self.package.make(f"{self.game}-raw")  # without wrappers, which repeat the whole history
        except (KeyError, ValueError) as error:
            raise ValueError(f"game={self.game!r}: TextArena has no game of this name ({error}).") from error

    def begin(self, seed: int) -> tuple[str, dict[str, Any]]:
        """See :meth:`SeededEnv.begin`."""
        self._steps = 0
        with self._randomness.active(seed):
            self._played = self._made()
            self._played.reset(num_players=1, seed=seed)
            return self._messages(), {}

    def content(self, task: str) -> str:
        """First observation and hidden state of a game, which games with different seeds can share."""
        self.over = True
        text, _ = self.begin(self._seeds[task])
        return f"{text}\n{self._played.state.game_state}"

    def act(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make a move."""
        self._steps += 1
        with self._randomness.active():
            over, _ = self._played.step(action)
            text = self._messages()
            if not over and self._steps < self.max_steps:
                return text, 0.0, False, False, {}
            if not over:
                return text, 0.0, False, True, {"success": False, "steps": self._steps}
            rewards, about = self._played.close()
        reward = min(1.0, max(0.0, float((rewards or {}).get(0, 0.0))))
        said = dict((about or {}).get(0, {}))
        text = "\n".join(part for part in (text, str(said.get("reason", ""))) if part)
        invalid = bool(said.get("invalid_move", False))
        return text, reward, True, False, {"success": reward >= 1.0, "invalid_move": invalid, "steps": self._steps}

    def _messages(self) -> str:
        """What the game says since the last move, without the player's own words."""
        _, messages = self._played.get_observation()
        own = self.package.ObservationType.PLAYER_ACTION
        return "\n".join(str(text).strip() for _, text, kind in messages if kind is not own)
