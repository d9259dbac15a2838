"""Warm-up data for the pocket retail policy: imperfect episodes, reviews, and rows that follow a hint.

The demonstrator has *habits* that ignore the policy or what a tool returned: for some products it takes the first
listed other item, or refunds to the original payment method without looking up the gift card; it cancels with the
default reason; it asks for confirmation although the status forbids the request. Greedy decoding therefore does not
remove its mistakes. Sometimes it refuses an allowed request. The tools accept a wrong item, reason or refund, which
lowers only the final reward; they refuse a forbidden change with an error. Hint-following rows follow any hint, so that
a wrong hint misleads the teacher.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hero_envs.tau_bench.goals import REASONS
from hero_envs.tau_bench.lookups import GIFT_CARD
from hero_pl.chat.dialect import Dialect
from hero_pl.pocket.retail.commands import RetailCommands
from hero_pl.pocket.retail.reflector import RetailRules, desks
from hero_pl.pocket.retail.rules import ACTS, TRANSFER, Call, Desk, judge, read_call, short
from hero_pl.pocket.shop.demonstrations import MODES, check_chances, hint_teachers, labeled_turn, taught_rows
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import Demonstrations, stranger
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import Diagnosis, Reflection, Trajectory

_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


class RetailDemonstrations(Demonstrations):
    """Episodes, reviews and hint-following rows from a demonstrator with habits.

    Args:
        habit: Probability of the habitual mistake where there is a habit.
        noise: Probability of a random other item, reason or payment where there is no habit.
        slips: Probability of a skipped question or an unnecessary look-up.
        refusals: Probability, per step, of a transfer although the request is allowed. With 0, every transfer in the
            warm-up is correct, and the policy then reviews its own wrong transfers as correct too.
        branches: Hint-following rows per episode.
        obedience: Fraction of diagnosis rows whose verdict is random; the label follows the hint.
        clean: Demonstrate without mistakes and without other rows (to check that the task can be learned).
    """

    def __init__(
        self,
        habit: float = 0.7,
        noise: float = 0.25,
        slips: float = 0.05,
        refusals: float = 0.04,
        branches: int = 3,
        obedience: float = 0.4,
        clean: bool = False,
    ) -> None:
        check_chances(self, habit=habit, noise=noise, slips=slips, refusals=refusals)
        self.habit, self.noise, self.slips, self.refusals = habit, noise, slips, refusals
        self.branches, self.obedience, self.clean = branches, obedience, clean
        self.rules = RetailRules()
        self.parser = RetailCommands()
        self.teachers = hint_teachers()

    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        """Play the demonstrator and convert its episodes with ``hero_pl.pocket.shop.demonstrations.taught_rows``.

        Raises:
            ConfigError: The environment is not a pocket retail desk.
        """
        clerk = ScriptedPolicy(partial(self._reply, collector.env_id), dialect.template, self.parser)
        clerk.max_length = dialect.max_length
        played = collector.collect(specs, clerk, Sampling(1.0, 256))
        return played if self.clean else taught_rows(played, self.rules, dialect, self._branches)

    # -- acting ------------------------------------------------------------------------------------------------

    def _reply(self, env_id: str, context: str, seed: int) -> str:
        """The demonstrator's next reply, from the text of the conversation."""
        read = read_dialogue(context, self.parser)
        if read is None:
            raise stranger(self, env_id)
        desk, turn = read
        call = desk.right() if self.clean else self.choose(desk, random.Random(seed * 1009 + turn))
        return self.parser.write(call)

    def choose(self, desk: Desk, rng: random.Random) -> Call:
        """The demonstrator's step: correct, or wrong by habit or at random."""
        right = desk.right()
        if rng.random() < self.slips and desk.user_id is not None and not desk.acted:
            return desk.profile()
        if self.refusals and desk.status is not None and not desk.acted and rng.random() < self.refusals:
            return TRANSFER
        if right == TRANSFER and not desk.failed and rng.random() < self.habit:
            return self._act(desk, rng) if desk.confirmed else desk.ask()
        if right["name"] == "get_user_details":
            if desk.confirmed:
                return self._act(desk, rng)
            skips = self.habit if has_habit("payment", desk) else self.noise
            return desk.ask() if rng.random() < skips else right
        if right == desk.ask() and rng.random() < self.slips:
            return self._act(desk, rng)
        return self._act(desk, rng) if right["name"] in ACTS else right

    def _act(self, desk: Desk, rng: random.Random) -> Call:
        """The change, with the item, reason or payment that the demonstrator chooses."""
        wanted = desk.wanted_item()
        others = [choice for choice in desk.choices() if choice != wanted]
        if desk.goal.kind == "cancel":
            wrong = self.habit if wanted != REASONS[0] else self.noise / 4
        else:
            wrong = self.habit if has_habit("item", desk) else self.noise
        item = wanted
        if others and rng.random() < wrong:
            item = others[0] if has_habit("item", desk) else rng.choice(others)
        payment = desk.wanted_payment()
        if desk.goal.payment_id == GIFT_CARD and rng.random() < self.noise / 4:
            payment = desk.paid
        return desk.act(item, payment)

    # -- reviews and hint-following rows -----------------------------------------------------------------------

    def _branches(
        self, trajectory: Trajectory, reflection: Reflection, dialect: Dialect, rng: random.Random
    ) -> list[Trajectory]:
        known = desks(trajectory)
        places = self._places(trajectory, known, rng)
        return [self._branch(trajectory, place, known[place], reflection, dialect, rng) for place in places]

    def _places(self, trajectory: Trajectory, known: Sequence[Desk], rng: random.Random) -> list[int]:
        """Draw the turns of the hint-following rows; turns with a decision have three times the weight."""
        places = list(range(len(trajectory.turns)))
        weights = [3 if desk.status is not None and not desk.acted else 1 for desk in known]
        chosen: list[int] = []
        while len(chosen) < min(self.branches, len(places)):
            place = rng.choices(places, weights)[0]
            chosen += [place] if place not in chosen else []
        return chosen

    def _branch(
        self,
        trajectory: Trajectory,
        place: int,
        desk: Desk,
        reflection: Reflection,
        dialect: Dialect,
        rng: random.Random,
    ) -> Trajectory:
        turn = trajectory.turns[place]
        mode = rng.choices(list(MODES), list(MODES.values()))[0]
        diagnosis, label = reflection.diagnoses[place], desk.right()
        if mode == "feedback":
            label = label if trajectory.reward >= 1.0 else self.choose(desk, rng)
        elif rng.random() < self.obedience:
            diagnosis, label = self._arbitrary(desk, rng)
        alone = replace(trajectory, turns=(turn,))
        hint = self.teachers[mode].advise([alone], [Reflection((diagnosis,), "ok")], dialect)[0][0]
        prompt = dialect.template.insert_hint(turn.prompt_ids, hint.text if hint else "")
        return replace(trajectory, turns=(labeled_turn(1, prompt, self.parser.write(label), dialect),))

    @staticmethod
    def _arbitrary(desk: Desk, rng: random.Random) -> tuple[Diagnosis, Call]:
        """A random verdict, and the step that follows it."""
        named, other = rng.sample(desk.possible(), 2)
        if rng.random() < 0.4:
            return Diagnosis(f"right: {short(named)}", "high"), named
        fault = judge(desk, named, "")[0].partition(":")[0]
        fault = "wrong step" if fault == "right" else fault
        return Diagnosis(f"{fault}: {short(named)}", "high", other), other


def read_dialogue(context: str, parser: RetailCommands) -> tuple[Desk, int] | None:
    """The desk and the number of turns played, from the text of a conversation; ``None`` if it is not one."""
    messages = [(role, text) for role, text in _MESSAGE.findall(context) if role != "system"]
    desk = Desk.open(messages[0][1]) if messages else None
    if desk is None:
        return None
    for (_, reply), (_, observation) in zip(messages[1::2], messages[2::2], strict=True):
        desk = desk.after(read_call(parser.parse(reply).action), observation)
    return desk, len(messages) // 2


def has_habit(slot: str, desk: Desk) -> bool:
    """Whether the demonstrator has a habit there: for two of three products, chosen by a hash of the name."""
    name = desk.goal.items[0].name if desk.goal.items else "cancel"
    return zlib.crc32(f"{slot} {name}".encode()) % 3 > 0
