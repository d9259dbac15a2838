"""Warm-up data for the pocket shop policy: imperfect episodes, reviews, and rows that follow a hint.

The demonstrator has *habits*: in one or two slots of every category it takes the first listed value most of the time,
correct or not. Greedy decoding therefore does not remove its mistakes. Hint-following rows follow any hint, so that a
wrong hint misleads the teacher and a constant hint has no value.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from hero_envs.webshop.pocket import KINDS
from hero_pl.chat.dialect import Dialect
from hero_pl.errors import ConfigError
from hero_pl.pocket.shop.expert import ShopExpert, first_message, last_message
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.pocket.shop.rules import Page, Request, Slot, action, decision
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.parse import dump_reflection
from hero_pl.reflection.self_reflector import review_prompt
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import Demonstrations, stranger
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.full_demo import FullDemoTeacher
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.types import Diagnosis, FinishReason, Hint, HintPosition, Reflection, Trajectory, Turn

HINT = str(Path(__file__).parents[1] / "hint.jinja")
DEMONSTRATION = str(Path(__file__).parents[1] / "demonstration.jinja")
DEMONSTRATION_POSITION: HintPosition = "system"
"""Position of a demonstration in the prompt, as in ``configs/baselines/full_demo.yaml``."""
OPTION_SLOTS: tuple[Slot, ...] = ("item", "color", "size")
MODES = {"full": 0.45, "no_target": 0.15, "feedback": 0.25, "diagnosis_only": 0.15}
"""Fractions of the hint modes among hint-following rows."""


class ShopDemonstrations(Demonstrations):
    """Episodes, reviews and hint-following rows from a demonstrator with habits.

    Args:
        habit: Probability of the first listed value, correct or not, in a habit slot.
        noise: Probability of a random wrong value in other slots.
        astray: Probability of searching for another category.
        wasted: Probability of opening an unnecessary page, per item page.
        invalid: Probability of an action that the page does not offer.
        branches: Hint-following rows per episode; 0 for none.
        obedience: Fraction of diagnosis rows on option turns whose verdict is random; the label follows the hint.
        clean: Demonstrate without mistakes and without other rows (to check that the task can be learned).
        demonstrations: Fraction of the hint-following rows that show, instead of a hint, the expert's whole episode of
            the same task, as ``FullDemoTeacher`` does; their label is the correct action.
        reviews: Whether to end each episode with its review.
    """

    def __init__(
        self,
        habit: float = 0.65,
        noise: float = 0.1,
        astray: float = 0.05,
        wasted: float = 0.1,
        invalid: float = 0.05,
        branches: int = 3,
        obedience: float = 0.4,
        clean: bool = False,
        demonstrations: float = 0.0,
        reviews: bool = True,
    ) -> None:
        check_chances(self, habit=habit, noise=noise, astray=astray, wasted=wasted, invalid=invalid)
        check_chances(self, demonstrations=demonstrations)
        self.habit, self.noise, self.astray, self.wasted, self.invalid = habit, noise, astray, wasted, invalid
        self.branches, self.obedience, self.clean = branches, obedience, clean
        self.demonstrations, self.reviews = demonstrations, reviews
        self.rules = ShopRules()
        self.teachers = hint_teachers()
        self.demonstrator = FullDemoTeacher("oracle", ShopExpert(), template=DEMONSTRATION)

    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        """Play the demonstrator and convert its episodes with :func:`taught_rows`.

        Raises:
            ConfigError: The environment is not a pocket shop.
        """
        if self.clean:
            return ShopExpert().make(specs, dialect, collector)
        demonstrator = ScriptedPolicy(partial(self._reply, collector.env_id), dialect.template, dialect.parser)
        demonstrator.max_length = dialect.max_length
        self.demonstrator.attach_collector(collector)
        played = collector.collect(specs, demonstrator, Sampling(1.0, 256))
        return taught_rows(played, self.rules, dialect, self._branches, self.reviews)

    # -- acting ------------------------------------------------------------------------------------------------

    def _reply(self, env_id: str, context: str, seed: int) -> str:
        """The demonstrator's next action, from the text of the conversation."""
        request = Request.read(first_message(context))
        if request is None:
            raise stranger(self, env_id)
        rng = random.Random(seed * 1009 + context.count("<|im_start|>user\n"))
        page = Page.read(last_message(context))
        if page.slot in ("color", "size") and rng.random() < self.wasted:
            return f"click[{rng.choice(('description', 'features', 'reviews'))}]"
        if page.slot in OPTION_SLOTS and rng.random() < self.invalid:
            return "click[buy now]" if page.slot == "item" else "click[purple]"
        return self.choose(request, page, rng)

    def choose(self, request: Request, page: Page, rng: random.Random) -> str:
        """The demonstrator's action: correct, or wrong by habit or at random."""
        slot, right = decision(request, page)
        return action(slot, self._value(request, page, slot, right, rng))

    def _value(self, request: Request, page: Page, slot: Slot, right: str, rng: random.Random) -> str:
        if slot == "search" and rng.random() < self.astray:
            return rng.choice([kind for kind in KINDS if kind != right])
        wrong = [value for value in page.values if value != right]
        if slot not in OPTION_SLOTS or not wrong:
            return right
        if page.slot in habits(request.category):
            return page.values[0] if rng.random() < self.habit else right
        return rng.choice(wrong) if rng.random() < self.noise else right

    # -- reviews and hint-following rows -----------------------------------------------------------------------

    def _branches(
        self, trajectory: Trajectory, reflection: Reflection, dialect: Dialect, rng: random.Random
    ) -> list[Trajectory]:
        turns = rng.sample(trajectory.turns, min(self.branches, len(trajectory.turns)))
        return [self._branch(trajectory, turn, reflection, dialect, rng) for turn in turns]

    def _branch(
        self, trajectory: Trajectory, turn: Turn, reflection: Reflection, dialect: Dialect, rng: random.Random
    ) -> Trajectory:
        request = Request.read(trajectory.first_observation)
        assert request is not None
        before = trajectory.first_observation if turn.number == 1 else trajectory.turns[turn.number - 2].observation
        page = Page.read(before)
        slot, right = decision(request, page)
        if self.demonstrations and rng.random() < self.demonstrations:
            shown = self.demonstrator.advise([trajectory], [reflection], dialect)[0][turn.number - 1]
            return _hinted(trajectory, turn, shown, action(slot, right), dialect, DEMONSTRATION_POSITION)
        mode = rng.choices(list(MODES), list(MODES.values()))[0]
        diagnosis = reflection.diagnoses[turn.number - 1]
        assert diagnosis is not None
        label = action(slot, right)
        if mode == "feedback":
            label = label if trajectory.reward >= 1.0 else self.choose(request, page, rng)
        elif slot in OPTION_SLOTS and rng.random() < self.obedience:
            diagnosis, label = self._arbitrary(page, turn, rng, mode)
        diagnoses = list(reflection.diagnoses)
        diagnoses[turn.number - 1] = diagnosis
        hints = self.teachers[mode].advise([trajectory], [Reflection(tuple(diagnoses), "ok")], dialect)[0]
        return _hinted(trajectory, turn, hints[turn.number - 1], label, dialect)

    @staticmethod
    def _arbitrary(page: Page, turn: Turn, rng: random.Random, mode: str) -> tuple[Diagnosis, str]:
        """A random verdict, and the action that follows it."""
        named = rng.choice(page.values)
        if rng.random() < 0.4:
            return Diagnosis(f"right: {named}", "high"), action(page.slot, named)
        other = rng.choice([value for value in page.values if value != named])
        target = {"name": "click", "arguments": {"element": other}}
        return Diagnosis(f"wrong: {named}", "high", target), action(page.slot, other)


def _hinted(
    trajectory: Trajectory,
    turn: Turn,
    hint: Hint | None,
    label: str,
    dialect: Dialect,
    position: HintPosition | None = None,
) -> Trajectory:
    """A hint-following row: the turn, with the hint in its context and the label as its action."""
    prompt = dialect.template.insert_hint(turn.prompt_ids, hint.text if hint else "", position)
    return replace(trajectory, turns=(labeled_turn(1, prompt, label, dialect),))


def habits(category: str) -> tuple[Slot, ...]:
    """Slots with a habit, one or two, determined by the category."""
    rng = np.random.default_rng([7, *category.encode()])
    count = int(rng.integers(1, 3))
    return tuple(OPTION_SLOTS[i] for i in sorted(rng.permutation(3)[:count]))


Branches = Callable[[Trajectory, Reflection, Dialect, random.Random], list[Trajectory]]
"""Function that returns the hint-following rows of one episode."""


def taught_rows(
    played: Sequence[Trajectory], rules: Reflector, dialect: Dialect, branches: Branches, reviews: bool = True
) -> list[Trajectory]:
    """Convert episodes to rows: each episode (followed by its review with ``reviews``) and its hint-following rows.

    Rows are sorted by length, so that micro-batches have little padding. An episode without a turn (its first message
    did not fit) stays one, so that it is counted.
    """
    rows: list[Trajectory] = []
    for trajectory, reflection in zip(played, rules.reflect(played, None), strict=True):
        rows.append(with_review(trajectory, reflection, dialect) if reviews and trajectory.turns else trajectory)
        rows += branches(trajectory, reflection, dialect, random.Random(trajectory.seed))
    return sorted(rows, key=lambda row: len(row.turns[-1].prompt_ids) if row.turns else 0)


def check_chances(owner: Demonstrations, **chances: float) -> None:
    """Check that all values are probabilities below 1.

    Raises:
        ConfigError: A value is not in [0, 1).
    """
    for name, value in chances.items():
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"{type(owner).__name__}({name}={value}): expected a probability in [0, 1).")


def hint_teachers() -> dict[str, HindsightTeacher]:
    """The teachers that render the hints of hint-following rows, by the keys of ``MODES``."""
    return {
        "full": HindsightTeacher(template=HINT),
        "no_target": HindsightTeacher(template=HINT, include_action_target="never"),
        "feedback": HindsightTeacher(template=HINT, include_diagnosis=False),
        "diagnosis_only": HindsightTeacher(template=HINT, include_next_observation=False, include_reward=False),
    }


def with_review(trajectory: Trajectory, reflection: Reflection, dialect: Dialect) -> Trajectory:
    """The episode with its review as an additional turn; the prompt of that turn contains the episode's ids."""
    prompt = review_prompt(trajectory, dialect)
    review = labeled_turn(len(trajectory.turns) + 1, prompt, dump_reflection(reflection), dialect)
    return replace(trajectory, turns=(*trajectory.turns, review))


def labeled_turn(number: int, prompt: tuple[int, ...], text: str, dialect: Dialect) -> Turn:
    """A turn whose action is a label."""
    ids = dialect.reply_ids(text)
    return Turn(number, prompt, ids, (0.0,) * len(ids), text, text, "", "user", FinishReason.STOP)
