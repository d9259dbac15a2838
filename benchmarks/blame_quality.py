"""Precision and recall of blame: which turns do reviewers call errors, against an oracle that knows the solution.

    python benchmarks/blame_quality.py --suite real-textworld --policy models/smollm2-textworld \
        --second models/smollm2-textworld-poor

The policy plays; the rules of the suite, the policy and a second policy review the same episodes. A turn is an error if
the oracle says so; turns about which the oracle says nothing are left out. A reviewer blames a turn if it proposes
another action, or says that the turn was an error without a correction; a turn without a diagnosis is not blamed.
``diagnosis_quality.py`` compares raters where there is no oracle.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diagnosis_quality import Verdicts, reviews, verdicts_of
from methods import OBJECTIVE, ROOT
from provenance import signed
from suites import SUITES
from tables import markdown

from hero_pl.cli.lightning import instantiate
from hero_pl.reflection.target import canonical_action
from hero_pl.runs.intervals import wilson
from hero_pl.types import Diagnosis, Trajectory

HEAD = ["reviewer", "turns with a diagnosis", "blamed", "precision", "recall", "right correction"]


@dataclass(frozen=True)
class Blame:
    """Counts of one reviewer on the turns that the oracle judges."""

    turns: int
    diagnosed: int
    errors: int
    """Turns that the oracle calls errors."""
    blamed: int
    found: int
    """Errors that the reviewer blames."""
    corrected: int
    """Of these, the number whose proposed action is the one of the oracle."""

    def row(self, name: str) -> list[str]:
        """A row of the table, shares with 95 % Wilson intervals."""
        shares = [
            (self.diagnosed, self.turns),
            (self.blamed, self.turns),
            (self.found, self.blamed),
            (self.found, self.errors),
            (self.corrected, self.found),
        ]
        return [name, *(_share(*counts) for counts in shares)]


def _share(count: int, of: int) -> str:
    if not of:
        return "-"
    low, high = wilson(count, of)
    return f"{count / of:.2f} ({low:.2f}-{high:.2f}, n={of})"


def is_error(diagnosis: Diagnosis | None) -> bool:
    """Whether a diagnosis calls its turn an error."""
    return diagnosis is not None and diagnosis.blames


def compare(truth: Verdicts, said: Verdicts) -> Blame:
    """Compare a reviewer with the oracle."""
    turns = [turn for turn, diagnosis in truth.items() if diagnosis is not None]
    errors = [turn for turn in turns if is_error(truth[turn])]
    found = [turn for turn in errors if is_error(said[turn])]
    return Blame(
        turns=len(turns),
        diagnosed=sum(said[turn] is not None for turn in turns),
        errors=len(errors),
        blamed=sum(is_error(said[turn]) for turn in turns),
        found=len(found),
        corrected=sum(_target(said[turn]) == _target(truth[turn]) for turn in found),
    )


def _target(diagnosis: Diagnosis | None) -> str | None:
    target = diagnosis.next_action_target if diagnosis else None
    return None if target is None else canonical_action(target).casefold()  # games read commands in any case


def by_rule(config: str, reflector: str, played: Sequence[Trajectory]) -> Verdicts:
    """Verdicts of a reflector that needs no model."""
    words = ["--config", config, _reflector({"class_path": reflector}), "--trainer.logger=false"]
    reviewer = instantiate(words).model.objective.reflector
    return verdicts_of(played, reviewer.reflect(played, None))


def _reflector(spec: Mapping[str, Any]) -> str:
    return f"--{OBJECTIVE}.reflector={json.dumps(spec)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="real-textworld", choices=[s.name for s in SUITES.values() if s.oracle])
    parser.add_argument("--policy", help="default: the first policy of the suite")
    parser.add_argument("--second", help="another policy, which reviews the same episodes")
    parser.add_argument("--episodes", type=int, default=48)
    parser.add_argument("--stage", default="validate", choices=["train", "validate", "test"])
    parser.add_argument("--no-self", action="store_true", help="leave out the reviews of the policy itself")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the configuration")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    suite = SUITES[args.suite]
    config = str(ROOT / suite.config)
    more = [f"--{word}" for word in args.set]
    own = suite.own["hero_self"][f"{OBJECTIVE}.reflector"]
    policy = args.policy or suite.policies[0]
    played, self_reviews, _ = reviews(
        config, policy, None, args.episodes, args.stage, [*more, _reflector(own)], review=not args.no_self
    )
    truth = by_rule(config, suite.oracle, played)
    said = {"rules": by_rule(config, suite.rules, played)}
    if not args.no_self:
        said["the policy itself"] = verdicts_of(played, self_reviews)
    if args.second:
        _, others, _ = reviews(config, args.second, played, args.episodes, args.stage, [*more, _reflector(own)])
        said["second policy"] = verdicts_of(played, others)
    counts = {name: compare(truth, verdicts) for name, verdicts in said.items()}
    first = next(iter(counts.values()))
    success = sum(bool(episode.info.get("success")) for episode in played)
    text = (
        f"{len(played)} episodes ({success} successful), {first.turns} turns that the oracle judges, "
        f"{first.errors} errors.\n\n{markdown(HEAD, [blame.row(name) for name, blame in counts.items()])}"
    )
    page = signed(text)
    print(page)
    if args.markdown:
        args.markdown.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
