"""Measure the quality of a base policy's own reviews, and the agreement of raters of a turn.

    python benchmarks/diagnosis_quality.py --policy hero_pl:pocket-shop --second benchmarks/checkpoints/pocket-shop-b
    python benchmarks/diagnosis_quality.py --config configs/pocket_retail.yaml --policy hero_pl:pocket-retail \
        --second benchmarks/checkpoints/pocket-retail-b

The policy plays tasks and reviews them; turns are drawn, each with its own and with a shuffled diagnosis. Three raters
label every turn as a mistake or not: the rules of the environment (which also judge the diagnoses), the outcome
(``hero_pl.annotate.outcome``: the rest of the episode is played by rule with and without the turn), and the reviews
of a second policy that was trained on other data. ``hero_pl annotate`` does the same step by step, with people or a
judge model as raters.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from provenance import signed
from tables import markdown

from hero_pl.annotate.files import report_json, to_markdown
from hero_pl.annotate.oracle import label_rows as by_rule
from hero_pl.annotate.outcome import label_rows as by_outcome
from hero_pl.annotate.quality import QUESTIONS, cohen_kappa, quality_report, sample_turns
from hero_pl.cli.lightning import instantiate
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.types import Diagnosis, Reflection, Trajectory

Row: TypeAlias = dict[str, Any]
Verdicts: TypeAlias = dict[tuple[str, int, int], Diagnosis | None]
"""Diagnosis of each turn, by task, seed and turn number."""


def reviews(
    config: str,
    policy: str,
    played: Sequence[Trajectory] | None,
    episodes: int,
    stage: str,
    more: Sequence[str] = (),
    review: bool = True,
) -> Any:
    """Episodes (played by the policy, unless given) with its reviews (none without ``review``), and the data module."""
    policy_argument = f"--model.policy.init_args.pretrained={policy}"
    cli = instantiate(["--config", config, policy_argument, "--trainer.logger=false", *more])
    cli.model.policy.load()
    cli.model.objective.start(cli.model.policy)
    if played is None:
        played = cli.datamodule.evaluate(cli.model.policy, stage, episodes)
    reviewed = cli.model.objective.reflector.reflect(played, cli.model.policy) if review else []
    return played, reviewed, cli.datamodule


def by_review(rows: Sequence[Row], verdicts: Verdicts) -> list[Row]:
    """Rows labeled by a reviewer: a turn that it blames is a mistake."""
    rated = []
    for row in rows:
        said = verdicts[row["task_id"], row["seed"], row["turn"]]
        labels = {**dict.fromkeys(QUESTIONS), "turn_was_error": said and said.blames}
        rated.append({**row, "labels": labels})
    return rated


def verdicts_of(played: Sequence[Trajectory], reflections: Sequence[Reflection]) -> Verdicts:
    """Diagnoses of all turns."""
    return {
        (episode.task_id, episode.seed, turn.number): diagnosis
        for episode, one in zip(played, reflections, strict=True)
        for turn, diagnosis in zip(episode.turns, one.diagnoses, strict=True)
    }


def _agreement(first: Sequence[Row], second: Sequence[Row]) -> float:
    """Agreement of two raters of the same rows in the same order."""
    answers = [[row["labels"]["turn_was_error"] for row in rows] for rows in (first, second)]
    return cohen_kappa(*answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--policy", default="hero_pl:pocket-shop")
    parser.add_argument("--second", help="another policy, whose reviews are a third rater")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--stage", default="validate", choices=["train", "validate", "test"])
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for rows, labels, key and report")
    parser.add_argument("--markdown", type=Path, help="also write the report as Markdown")
    args = parser.parse_args()
    torch.set_num_threads(1)
    raters: dict[str, list[Row]]
    played, own, data = reviews(args.config, args.policy, None, args.episodes, args.stage)
    shuffled = ShuffledReflector(ScriptedReflector(own), seed=args.seed).reflect(played, None)
    rows, key = sample_turns(played, {"true": own, "shuffled": shuffled}, args.turns, args.seed)
    raters = {"rules": by_rule(rows), "outcome": by_outcome(rows, data.env, data.env_args)}
    if args.second:
        _, others, _ = reviews(args.config, args.second, played, args.episodes, args.stage)
        raters["second policy"] = by_review(rows, verdicts_of(played, others))
    report = quality_report(list(raters.values()), key, raters["rules"])
    pairs = [
        [f"{first} and {second}", f"{_agreement(raters[first], raters[second]):.3f}"]
        for first, second in itertools.combinations(raters, 2)
    ]
    head = ["whether a turn was a mistake", "Cohen's kappa"]
    page = signed(f"{to_markdown(report)}\n{markdown(head, pairs)}")
    print(page)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        for name, labeled in {"turns": rows, **raters}.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in labeled)
            (args.out / f"{name.replace(' ', '-')}.jsonl").write_text(text, encoding="utf-8")
        (args.out / "turns.key.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
        (args.out / "report.json").write_text(report_json(report), encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
