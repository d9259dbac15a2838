"""Properties of an architecture, each tested on a small copy: one function and one line of the report for each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hero_pl.chat.probes import Line
from hero_pl.policy.branches import BranchScorer
from hero_pl.policy.check.play import Played, Reference, Small, merged, play
from hero_pl.policy.check.small import SWITCH
from hero_pl.policy.loading import Lora, with_adapter
from hero_pl.policy.network import Caching, Network
from hero_pl.types import ScoreRow

TRAINING = "Student and teacher would differ by more than their contexts: this architecture cannot be trained here."
OFF = "from the plain forward pass"
"""End of a message about a difference of logits, or of log-probabilities in nats."""
SLOW = {
    "row": ("row by row: padding would change the state of its layers", "Slower: every turn runs its whole context."),
    "none": ("without a cache: it has no usable one", "Very slow: every token runs its whole context."),
}
"""How sampling works without a shared cache, and what it costs."""
NATS = 1e-3
"""Largest difference of a log-probability that rounding can cause, in nats."""
HINT = 6
"""Number of tokens of the hint in the rows of a teacher."""


def allowed(dtype: torch.dtype, scale: float) -> float:
    """Largest difference between two computations of the same logits that rounding can cause.

    Args:
        dtype: Data type of the weights.
        scale: Largest absolute logit.
    """
    return (1e-4 if dtype in (torch.float32, torch.float64) else 5e-2) * max(1.0, scale)


class Trial:
    """A small model with sampled test conversations; each method tests one property."""

    def __init__(self, model: Any) -> None:
        self.policy = Small(Network(model))
        self.network = self.policy.need_network("the check")
        self.reference = Reference(model)
        self.played: list[Played] = []
        with self.policy.sampling():
            self.network.check_projection()

    @property
    def rows(self) -> list[ScoreRow]:
        """The sampled actions, one row each."""
        return [turn.scored for turn in self.played]

    # -- sampling ----------------------------------------------------------------------------------------------

    def sampler(self) -> Line:
        """Log-probabilities of sampled tokens, for a batch of rows of different lengths over several turns."""
        cure = "Use another architecture: this one cannot be sampled."
        for caching, takes_seen in (("shared", True), *((caching, False) for caching in get_args(Caching))):
            self.network.caching, self.network.takes_seen = caching, takes_seen
            line = compared("sampler", self._sampled, NATS, cure)
            if line.ok:
                break
        if not line.ok or caching == "shared":
            return line
        how, cost = SLOW[caching]
        return Line(line.name, True, f"{line.detail}, {how}", cost)

    def _sampled(self) -> tuple[Tensor, Tensor]:
        self.played = play(self.policy)
        got = torch.tensor([x for turn in self.played for x in turn.action.logprobs])
        return got, self.reference.logprobs(self.played)

    @property
    def _tolerance(self) -> float:
        return allowed(torch.float32, self.reference.scale)

    # -- scoring -----------------------------------------------------------------------------------------------

    def score(self) -> Line:
        """Scores of rows that are run one at a time."""
        return self._scored("score", lambda: torch.cat([self.policy.score([row]) for row in self.rows]), self.rows)

    def padded(self) -> Line:
        """Scores of a batch of rows with different lengths."""
        return self._scored("padded rows", lambda: self.policy.score(self.rows), self.rows)

    def turns_in_one_row(self) -> Line:
        """Scores of a whole conversation in one row."""
        rows = merged(self.played)
        return self._scored("turns in one row", lambda: self.policy.score(rows), rows)

    def training_mode(self) -> Line:
        """Scores in training mode: no dropout, skipped layers or router noise may change them."""

        def score() -> Tensor:
            self.policy.train()
            try:
                first, second = self.policy.score(self.rows), self.policy.score(self.rows)
            finally:
                self.policy.eval()
            if not torch.equal(first, second):
                raise RuntimeError("two passes over the same rows differ, so it uses random numbers")
            return first

        return self._scored("training mode", score, self.rows)

    # -- shared trunks -----------------------------------------------------------------------------------------

    def sharing(self, how: Literal["prefix_cache", "tree_mask"]) -> Line:
        """Scores of a teacher's rows, which end with a hint and an action, with shared prefixes."""
        hint = tuple(self.played[0].prompt[:1] * HINT)
        rows = [_hinted(turn, hint) for turn in sorted(self.played, key=lambda turn: turn.row)]
        short = [row for row in rows if len(row.ids) <= SWITCH]
        scorer = BranchScorer(how)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                got = torch.cat([scorer.score(self.policy, some, "live") for some in (short, rows)])
            gap = _gap(got, self.reference.logits([*short, *rows]))
            reason = scorer.reason or f"its logits change by {gap:.1e}"
            ok = scorer.reason is None and gap <= self._tolerance
        except _FAILURES as error:
            reason, ok = _first_line(error), False
        if ok:
            return Line(how, True, f"gap {gap:.0e}")
        self.network.obstacles[how] = reason
        return Line(how, True, f"not possible: {reason}", "Contexts are scored separately, which is exact and slower.")

    # -- other weights -----------------------------------------------------------------------------------------

    def frozen_copy(self) -> Line:
        """Scores of a frozen copy do not change with the live weights."""
        before = self.reference.logits(self.rows)
        self.policy.keep("frozen")
        with torch.no_grad():
            for weight in self.network.model.parameters():
                weight.add_(0.1 * torch.rand_like(weight))
        line = self._scored("frozen copy", lambda: self.policy.score(self.rows, "frozen"), self.rows)
        moved = _gap(self.policy.score(self.rows), before)
        return line if not line.ok or moved > 1e-2 else Line(line.name, False, "the copy changes with the live weights")

    def adapter_off(self) -> Line:
        """Samples and scores of the initial weights under an adapter are the same as without the adapter."""
        before = self.reference.logits(self.rows)
        network = Network(with_adapter(self.network.model, Lora(rank=4)), has_adapter=True)
        network.caching, network.takes_seen = self.network.caching, self.network.takes_seen
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0.0, 0.5)
        policy = Small(network.eval())
        with policy.sampling():
            network.check_projection()
            drawn = torch.tensor([x for turn in play(policy, "initial") for x in turn.action.logprobs])
            moved = _gap(policy.score(self.rows), before)
        want = self.reference.logprobs(self.played)
        if drawn.shape != want.shape or _gap(drawn, want) > NATS:
            return Line("adapter off", False, "samples of the initial weights differ from those without an adapter")
        line = self._scored("adapter off", lambda: policy.score(self.rows, "initial"), self.rows)
        return line if not line.ok or moved > 1e-2 else Line(line.name, False, "the adapter has no effect")

    # -- details -----------------------------------------------------------------------------------------------

    def _scored(self, name: str, score: Callable[[], Tensor], rows: Sequence[ScoreRow]) -> Line:
        def values() -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                return score().float(), self.reference.logits(rows)

        return compared(name, values, self._tolerance, TRAINING)


_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError)


def compared(name: str, values: Callable[[], tuple[Tensor, Tensor]], tolerance: float, cure: str) -> Line:
    """The line of the report for the largest difference to the plain forward pass.

    Args:
        name: Name of the property.
        values: Returns the actual and the expected values.
        tolerance: Largest accepted difference.
        cure: What to do if the difference is larger.
    """
    try:
        got, want = values()
        gap = _gap(got, want)
    except _FAILURES as error:
        return Line(name, False, f"fails: {_first_line(error)}", cure)
    if gap <= tolerance:
        return Line(name, True, f"gap {gap:.0e}")
    return Line(name, False, f"{gap:.0e} {OFF}", cure)


@torch.no_grad()
def _gap(got: Tensor, want: Tensor) -> float:
    """Largest difference; infinite if it is not finite."""
    gap = (got - want).abs().max()
    return float(gap) if bool(gap.isfinite()) else float("inf")


def _hinted(turn: Played, hint: tuple[int, ...]) -> ScoreRow:
    ids = (*turn.prompt, *hint, *turn.action.ids)
    return ScoreRow(ids, ((len(turn.prompt) + len(hint), len(ids)),), turn.row)


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
