"""Falsification controls: hints that differ from the true ones only in the content of the diagnosis.

If training with a control is as good as with the true diagnoses, the diagnoses have no effect. The turns with a hint
and their confidences are always those of the wrapped reflector; ``next_action_target`` is dropped. Deviations are
issues of their turn: ``control_unchanged`` (the other turn has the same words, or the same corrected action),
``control_from_buffer`` (the words come from an earlier batch), ``control_generic`` (a generic sentence was used
instead) and ``control_dropped`` (there was no text to use, so the turn has no hint).
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from hero_pl.errors import ConfigError
from hero_pl.parts import load_parts, parts_state
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.derange import Placed, derange, mismatch, same
from hero_pl.reflection.review import RETRIED
from hero_pl.reflection.target import canonical_action
from hero_pl.types import Diagnosis, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Copies, Policy

ShuffleMode: TypeAlias = Literal["batch", "turns", "generic", "random_tokens"]
Replacement: TypeAlias = tuple[str | None, tuple[str, ...]]
"""The new text (``None`` drops the hint) and its issues."""


class ShuffledReflector(Reflector):
    """Gives every turn the diagnosis of another turn: the random-diagnosis control.

    Args:
        inner: Reflector whose diagnoses are exchanged.
        mode: ``batch`` exchanges across episodes of the same environment, preferably of other tasks. ``turns``
            exchanges within each episode. ``generic`` uses generic sentences. ``random_tokens`` draws words at random
            from the diagnoses of other turns. All prefer texts of similar length.
        seed: Determines the exchange.
        buffer_size: Number of diagnoses of earlier batches to keep, for turns without a partner.
    """

    removes_targets = True

    def __init__(self, inner: Reflector, mode: ShuffleMode = "batch", seed: int = 0, buffer_size: int = 256) -> None:
        if mode not in get_args(ShuffleMode):
            raise ConfigError(f"ShuffledReflector(mode={mode!r}): expected one of {', '.join(get_args(ShuffleMode))}.")
        if buffer_size < 0:
            raise ConfigError(f"ShuffledReflector(buffer_size={buffer_size}): expected 0 or more diagnoses.")
        self.inner = inner
        self.mode = mode
        self.seed = seed
        self._buffer: deque[Placed] = deque(maxlen=buffer_size)
        self._calls = 0

    def check_policy(self, policy: Policy) -> None:
        """See :meth:`Reflector.check_policy`."""
        self.inner.check_policy(policy)

    @property
    def copies(self) -> Copies:
        """Those of the inner reflector."""
        return self.inner.copies

    def start(self, policy: Policy) -> None:
        """Prepare the inner reflector."""
        self.inner.start(policy)

    @property
    def continues(self) -> int:
        """That of the inner reflector."""
        return self.inner.continues

    @property
    def lends(self) -> str | None:
        """Those of the wrapped reflector."""
        return self.inner.lends

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """Call ``inner``, then exchange the texts of its diagnoses."""
        reflections = self.inner.reflect(trajectories, policy)
        items = _place(trajectories, reflections)
        rng = random.Random(f"{self.seed}/{self._calls}")
        self._calls += 1
        if self.mode == "generic":
            replacements = [_generic(item, rng) for item in items]
        elif self.mode == "random_tokens":
            replacements = [self._random_words(item, items, rng) for item in items]
        else:
            replacements = self._exchange(items, rng)
        self._buffer.extend(replace(item, episode=-1) for item in items)
        return _with_texts(reflections, items, replacements)

    def state_dict(self) -> dict[str, Any]:
        """Number of batches (which determines the random numbers of the next one), buffer, and inner state."""
        return {
            "calls": self._calls,
            "buffer": [[item.env_id, item.task_id, item.turn, item.text, item.correction] for item in self._buffer],
            **parts_state({"inner": self.inner}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._calls = int(state["calls"])
        self._buffer.clear()
        for env_id, task_id, turn, text, *correction in state["buffer"]:  # checkpoints of 0.1.0 have none
            self._buffer.append(Placed(text, env_id, task_id, -1, turn, *correction))
        load_parts({"inner": self.inner}, state)

    def _exchange(self, items: list[Placed], rng: random.Random) -> list[Replacement]:
        group_of: Callable[[Placed], object] = (
            (lambda item: item.env_id) if self.mode == "batch" else (lambda item: item.episode)
        )
        replacements: list[Replacement] = [(None, ())] * len(items)
        for group in dict.fromkeys(map(group_of, items)):
            members = [i for i, item in enumerate(items) if group_of(item) == group]
            taken = derange([items[i] for i in members], rng)
            for place, i in enumerate(members):
                giver = items[members[taken[place]]] if taken else None
                assert giver is not items[i]
                replacements[i] = self._settle(items[i], giver, rng)
        return replacements

    def _settle(self, item: Placed, giver: Placed | None, rng: random.Random) -> Replacement:
        """Use the giver's words, unless they tell the same or are (in ``batch``) from the same episode."""
        unchanged = giver is not None and same(item, giver)
        too_close = self.mode == "batch" and giver is not None and giver.episode == item.episode
        if giver is None or unchanged or too_close:
            kept = [old for old in self._buffer if old.env_id == item.env_id and not same(item, old)]
            if kept:
                least = min(mismatch(item, old) for old in kept)
                return rng.choice([old for old in kept if mismatch(item, old) == least]).text, ("control_from_buffer",)
        if giver is None:
            return None, ("control_dropped",)
        return giver.text, ("control_unchanged",) * unchanged + ("control_same_episode",) * too_close

    def _random_words(self, item: Placed, items: list[Placed], rng: random.Random) -> Replacement:
        """The same number of words, drawn from the diagnoses of other turns (or from generic sentences)."""
        others = [other for other in (*items, *self._buffer) if other is not item and other.env_id == item.env_id]
        pool = [word for other in others for word in other.text.split()] or " ".join(generic_bank()).split()
        text = " ".join(rng.choice(pool) for _ in item.text.split())
        return text, ("control_unchanged",) if text == item.text else ()


class BlindReflector(Reflector):
    """Uses diagnoses of the same episodes without observations: measures what can be guessed from the actions alone.

    The wrapped reflector is called twice, with the original episodes and with the same episodes without replies, so
    reflection costs twice as much.

    Args:
        inner: The reflector to blind.
        seed: Determines the generic sentence for turns without a blind diagnosis.
    """

    removes_targets = True

    def __init__(self, inner: Reflector, seed: int = 0) -> None:
        if inner.needs_replies:
            raise ConfigError(
                f"BlindReflector(inner={type(inner).__name__}): it judges by the replies of the environment, and would "
                "blame right actions without them. Use a reflector that is a model, such as "
                "SelfReflector(mode='transcript')."
            )
        if getattr(inner, "mode", None) == "continue":
            raise ConfigError(
                f"BlindReflector(inner={type(inner).__name__}(mode='continue')): that mode uses the ids of the "
                "episode, which contain the replies. Use mode='transcript'."
            )
        self.inner = inner
        self.seed = seed
        self._calls = 0

    def check_policy(self, policy: Policy) -> None:
        """See :meth:`Reflector.check_policy`."""
        self.inner.check_policy(policy)

    @property
    def copies(self) -> Copies:
        """Those of the inner reflector."""
        return self.inner.copies

    def start(self, policy: Policy) -> None:
        """Prepare the inner reflector."""
        self.inner.start(policy)

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """Reflect with and without replies; keep turns and confidences of the first, and the texts of the second."""
        reflections = self.inner.reflect(trajectories, policy)
        blind = self.inner.reflect([without_replies(trajectory) for trajectory in trajectories], policy)
        rng = random.Random(f"{self.seed}/{self._calls}")
        self._calls += 1
        items = _place(trajectories, reflections)
        replacements: list[Replacement] = []
        for item in items:
            diagnosis = blind[item.episode].diagnoses[item.turn - 1]
            if diagnosis is None:
                text, codes = _generic(item, rng)
                replacements.append((text, (*codes, "control_generic")))
            else:
                same = diagnosis.text == item.text
                replacements.append((diagnosis.text, ("control_unchanged",) if same else ()))
        joined = _with_texts(reflections, items, replacements)
        return [
            replace(
                real,
                tokens=real.tokens + other.tokens,
                issues=real.issues + tuple(issue for issue in other.issues if issue == RETRIED),
            )
            for real, other in zip(joined, blind, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Number of batches, and the inner state."""
        return {"calls": self._calls, **parts_state({"inner": self.inner})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._calls = int(state["calls"])
        load_parts({"inner": self.inner}, state)


def without_replies(trajectory: Trajectory) -> Trajectory:
    """The same episode without replies of the environment, in text, prompt ids and final ``info``."""
    turns = tuple(replace(turn, observation="", prompt_ids=()) for turn in trajectory.turns)
    return replace(trajectory, turns=turns, info={})


@functools.cache
def generic_bank() -> tuple[str, ...]:
    """Generic sentences of many lengths; they fit every turn and contain no information."""
    path = Path(__file__).parent / "prompts" / "generic_bank.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _generic(item: Placed, rng: random.Random) -> Replacement:
    bank = [sentence for sentence in generic_bank() if sentence != item.text]
    distance = [abs(len(sentence).bit_length() - item.bucket) for sentence in bank]
    return rng.choice([bank[i] for i in range(len(bank)) if distance[i] == min(distance)]), ()


def _place(trajectories: Sequence[Trajectory], reflections: Sequence[Reflection]) -> list[Placed]:
    return [
        Placed(diagnosis.text, trajectory.env_id, trajectory.task_id, episode, turn, _correction(diagnosis))
        for episode, (trajectory, reflection) in enumerate(zip(trajectories, reflections, strict=True))
        for turn, diagnosis in enumerate(reflection.diagnoses, 1)
        if diagnosis
    ]


def _correction(diagnosis: Diagnosis) -> str | None:
    call = diagnosis.next_action_target
    return None if call is None else canonical_action(call)


def _with_texts(
    reflections: Sequence[Reflection], items: list[Placed], replacements: list[Replacement]
) -> list[Reflection]:
    """Replace the texts and drop the targets; nothing else changes."""
    diagnoses: list[list[Diagnosis | None]] = [list(reflection.diagnoses) for reflection in reflections]
    issues: list[list[tuple[str, int]]] = [list(reflection.issues) for reflection in reflections]
    for item, (text, codes) in zip(items, replacements, strict=True):
        old = diagnoses[item.episode][item.turn - 1]
        assert old is not None
        failed = old.blames
        diagnoses[item.episode][item.turn - 1] = Diagnosis(text, old.confidence, None, failed) if text else None
        issues[item.episode] += [(code, item.turn) for code in codes]
    return [
        replace(
            reflection,
            diagnoses=tuple(new),
            issues=tuple(codes),
            status="rejected" if any(reflection.diagnoses) and not any(new) else reflection.status,
        )
        for reflection, new, codes in zip(reflections, diagnoses, issues, strict=True)
    ]
