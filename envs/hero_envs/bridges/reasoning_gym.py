"""Questions of reasoning-gym (arXiv 2505.24760): generated data sets with a score for an answer.

``pip install 'hero_pl[reasoning-gym]'``; nothing is downloaded. Most data sets compare texts, some run the answer as an
expression of Python to score it. Those are refused, because an answer is text of a model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from hero_envs.bridges.base import SeededEnv, judged, package
from hero_envs.bridges.randomness import OwnRandomness

SYSTEM_PROMPT = "Answer the question. Reply with the final answer and nothing else."
MAX_ANSWER = 2000
"""Maximum length of an answer, in characters; a longer one scores 0."""
_RUNS_TEXT = re.compile(r"\b(?:eval|exec|parse_expr|sympify|S|literal_eval|loads)\(")
_HARMLESS = ("literal_eval(", "loads(")


class ReasoningGymEnv(SeededEnv):
    """One question per episode; a wrong answer can be given again.

    Args:
        dataset: Name of a data set, for example ``chain_sum``.
        config: Its settings, for example ``{"max_terms": 3}``.
        attempts: Maximum number of answers.
        split: ``train``, ``validation``, ``test`` or ``warmup``.
        tasks: Number of questions of the split.
        world: Another number gives other questions.
        run_answers: Accept a data set that runs the answer as Python. Only in a sandbox.
        system_prompt: Text that replaces the environment's own system prompt.
    """

    def __init__(
        self,
        dataset: str = "chain_sum",
        config: Mapping[str, Any] | None = None,
        attempts: int = 3,
        split: str = "train",
        tasks: int | None = None,
        world: int = 0,
        run_answers: bool = False,
        system_prompt: str | None = None,
    ) -> None:
        self.package = package("reasoning_gym", "reasoning-gym", "reasoning-gym")
        if attempts < 1:
            raise ValueError(f"attempts={attempts}: expected at least 1.")
        super().__init__(dataset, split, tasks, world, SYSTEM_PROMPT if system_prompt is None else system_prompt)
        self.dataset, self.config, self.attempts = dataset, dict(config or {}), attempts
        made = self._made(0)
        if not run_answers and runs_text(inspect.getsource(inspect.getmodule(type(made)) or type(made))):
            raise ValueError(
                f"dataset={dataset!r} may run an answer as Python to score it. Choose another one, or set run_answers "
                "in a sandbox."
            )

    def _made(self, seed: int) -> Any:
        return self.package.create_dataset(self.dataset, size=1, seed=seed, **self.config)

    def begin(self, seed: int) -> tuple[str, dict[str, Any]]:
        """See :meth:`SeededEnv.begin`."""
        with OwnRandomness().active(seed):  # some data sets draw from the global generators, or seed them
            self._data = self._made(seed)
            self._entry = self._data[0]
        self._left, self._best = self.attempts, 0.0
        self._problems: dict[str, str] = {}
        return str(self._entry["question"]), {}

    def content(self, task: str) -> str:
        """The question, which tasks with different seeds can share."""
        self.over = True
        return self.begin(self._seeds[task])[0]

    def act(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score an answer; the reward is how much it is better than the best one before."""
        answer = action.strip()
        if len(answer) <= MAX_ANSWER:
            score, problem = judged(lambda: self._data.score_answer(answer, self._entry))
            self._problems |= problem  # the last one is also in the last info
        else:
            score = 0.0
        self._left -= 1
        gained, self._best = max(0.0, score - self._best), max(self._best, score)
        right = score >= 1.0
        over = right or self._left == 0
        text = "Right." if right else "Wrong." if over else f"Wrong, score {score:.2f}. Try again."
        info = {"success": right, "answer": str(self._entry["answer"])} if over else {}
        return text, gained, over, False, {**info, **self._problems}


def runs_text(source: str) -> bool:
    """Whether a module can run text as an expression; the check is cautious and also finds uses on its own texts."""
    return any(found[0] not in _HARMLESS for found in _RUNS_TEXT.finditer(source))
