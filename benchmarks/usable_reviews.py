"""Can a policy review episodes at all, in which form, and does it blame the right turns?

    python benchmarks/usable_reviews.py base=models/smollm2 sft=FOLDER --out docs/results/usable-reviews.md

Every policy reviews the same episodes: demonstrations with mistakes in them. Each form of review is asked for freely
and drawn under its format (``constrained``, which needs the extra of that name). Counted are turns with a usable
diagnosis; of all turns that the rules call mistakes, and of all that the review blames (by proposing another action),
those that both name; and corrected actions that are the right ones. With ``--out`` a JSON file of the answers is
written beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from provenance import signed
from tables import markdown

from hero_pl.cli.lightning import instantiate
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.base import Policy
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.reflection.target import target_reply
from hero_pl.types import Diagnosis, Reflection, Trajectory

FORMS: Mapping[str, dict[str, Any]] = {
    "JSON, in a conversation of its own": {"mode": "transcript"},
    # no window fits, and each has at least one turn
    "JSON, one turn at a time": {"mode": "transcript", "max_request_tokens": 1},
    "JSON, after the episode": {"mode": "continue"},
    "lines, after the episode": {"mode": "continue", "answer": "lines"},
}
HEAD = ["policy", "form", "drawn", "usable turns", "blamed", "precision", "recall", "right targets", "tokens", "s"]


def counts(truth: Sequence[Reflection], found: Sequence[Reflection], policy: Policy) -> dict[str, int]:
    """Over all turns: how many there are, usable, blamed, mistakes by rule, blamed mistakes and right targets."""
    total = dict.fromkeys(("turns", "usable", "blamed", "mistakes", "both", "right", "tokens"), 0)
    for true, one in zip(truth, found, strict=True):
        total["tokens"] += one.tokens
        for rule, said in zip(true.diagnoses, one.diagnoses, strict=True):
            wanted, given = (written(diagnosis, policy) for diagnosis in (rule, said))
            total["turns"] += 1
            total["usable"] += said is not None
            total["blamed"] += given is not None
            total["mistakes"] += wanted is not None
            total["both"] += wanted is not None and given is not None
            total["right"] += wanted is not None and given == wanted
    return total


def written(diagnosis: Diagnosis | None, policy: Policy) -> str | None:
    """The corrected action as the policy would write it."""
    if diagnosis is None or diagnosis.next_action_target is None:
        return None
    return target_reply(diagnosis.next_action_target, policy.parser).strip().casefold()


def review(policy: Policy, played: Sequence[Trajectory], form: str, constrained: bool, tokens: int) -> Any:
    """Reviews of the episodes in one form, and the seconds that they took."""
    start = time.perf_counter()
    reflector = SelfReflector(**FORMS[form], constrained=constrained, tokens_per_turn=tokens)
    return reflector.reflect(played, policy), time.perf_counter() - start


def row(name: str, form: str, constrained: bool, total: Mapping[str, int], seconds: float) -> list[str]:
    """One line of the table."""

    def of(part: str, whole: str) -> str:
        return f"{total[part]} of {total[whole]}"

    drawn = "under its format" if constrained else "freely"
    shares = [of("usable", "turns"), of("blamed", "turns"), of("both", "blamed"), of("both", "mistakes")]
    return [name, form, drawn, *shares, of("right", "blamed"), str(total["tokens"]), f"{seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--config", default="configs/smollm2_shop_sft.yaml", help="with data.demonstrations")
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--tokens-per-turn", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    kept: list[dict[str, Any]] = []
    for name, folder in (named.split("=", 1) for named in args.policies):
        settings = {"pretrained": folder, "dtype": args.dtype, "lora": "null"}
        words = [f"--model.policy.init_args.{key}={value}" for key, value in settings.items()]
        cli = instantiate(["--config", args.config, *words, "--trainer.logger=false"])
        policy = cli.model.policy
        policy.load()
        played = cli.datamodule.demonstrate(policy.dialect, args.episodes)
        truth = ShopRules().reflect(played, policy)
        for form in args.forms:
            for constrained in (False, True):
                found, seconds = review(policy, played, form, constrained, args.tokens_per_turn)
                total = counts(truth, found, policy)
                rows.append(row(name, form, constrained, total, seconds))
                print(" | ".join(rows[-1]), flush=True)
                answers = [{"raw": one.raw, "issues": one.issues} for one in found]
                kept.append({"policy": name, "form": form, "constrained": constrained, **total, "answers": answers})
    room = f"{args.tokens_per_turn} tokens per turn and 64 more"
    says = f"{args.episodes} demonstrated episodes, {room}, greedy, {args.dtype}."
    page = signed(f"{says}\n\n{markdown(HEAD, rows)}")
    print(page)
    if args.out:
        args.out.write_text(page, encoding="utf-8")
        args.out.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
