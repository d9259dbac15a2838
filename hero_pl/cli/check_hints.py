"""``hero_pl check-hints``: measure, without training, whether the policy of a configuration can use its hints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.retail.reflector import RetailRules
from hero_pl.pocket.shop.reflector import RuleReflector, ShopRules
from hero_pl.pocket.textworld.reflector import TextWorldRules
from hero_pl.pocket.webshop.reflector import WebShopRules
from hero_pl.runs.folders import must_be_writable
from hero_pl.runs.plots import FIGURES, figure_class
from hero_pl.teacher.hindsight import EmptyHintTeacher, HindsightTeacher
from hero_pl.teacher.hint_check.cases import ALL, make_cases
from hero_pl.teacher.hint_check.report import HintReport, check_hints, conclusion, draw, summary, to_table
from hero_pl.teacher.render import HintTemplate
from hero_pl.teacher.wordings import AUTO, wordings

if TYPE_CHECKING:
    from hero_pl.cli.lightning import HeroCLI
    from hero_pl.policy.base import Policy
    from hero_pl.types import Reflection, Trajectory

Labels = Literal["auto", "rules", "reflector"]
RULES: tuple[type[RuleReflector], ...] = (ShopRules, RetailRules, TextWorldRules, WebShopRules)
"""Rules of the shipped environments; each knows its own episodes."""


def run(
    words: Sequence[str],
    episodes: int = 16,
    turns: int = 16,
    labels: Labels = "auto",
    templates: list[str] | None = None,
    out: Path = Path("hints.json"),
    figure: Path | None = None,
    demonstrations: bool = False,
    drop: bool = True,
) -> HintReport:
    """Play training episodes, diagnose them, measure every wording, and write the report.

    Args:
        words: Arguments of ``fit``: ``--config FILE`` (repeated for overlays) and further options.
        episodes: Number of episodes to play.
        turns: Maximum number of turns to measure, for errors and for correct turns each.
        labels: Source of the diagnoses: the configuration's ``reflector``, ``rules``, or ``auto`` (rules if the
            environment has them, else the reflector).
        templates: Wordings; default: those of the package, and the configuration's own.
        out: JSON file for the report.
        figure: PNG or SVG file for a plot of the report, if not ``None``.
        demonstrations: Use episodes of ``data.demonstrations`` instead of the policy's own. They must be plain
            episodes, without reviews and hints.
        drop: Stop measuring wordings that are surely worse than others; see :func:`check_hints`.

    Raises:
        ConfigError: The settings are invalid, a file cannot be written, or there are no diagnoses.
    """
    from rich.console import Console

    if episodes < 1 or turns < 1 or labels not in get_args(Labels):
        raise ConfigError(
            f"--episodes={episodes}, --turns={turns}, --labels={labels}: expected at least 1 and 1, and one of "
            f"{', '.join(get_args(Labels))}."
        )
    must_be_writable(out, "Name another file with --out.")
    if figure is not None:
        figure_class()
        must_be_writable(figure, "Name another file with --figure.", FIGURES)
    cli = instantiate(list(words))
    teacher, data = _teacher(cli), cli.datamodule
    if demonstrations and data.demonstrations is None:
        raise ConfigError(
            "--demonstrations: the configuration has none (data.demonstrations). Give one that has, for example "
            "configs/smollm2_shop_sft.yaml, or leave the option out."
        )
    own = [] if teacher.auto else [teacher.wording.template]
    if templates is None:
        templates = list(dict.fromkeys([*own, *(wording.template for wording in wordings())]))
    candidates = {wording: HintTemplate(wording.template, *teacher.limits) for wording in wordings(templates)}
    policy = cli.model.policy
    policy.load()
    if demonstrations:
        played = data.demonstrate(policy.dialect, episodes)
    else:
        played = data.evaluate(policy, "train", episodes, sampling=data.sampling)
    with data.precision():
        reflections = _diagnoses(cli, played, policy, labels)
        cases = make_cases(played, reflections, teacher.facts, policy.dialect, turns)
        report = check_hints(cases, candidates, policy, ALL, own[0] if own else None, drop)
    out.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    Console().print(to_table(report))
    print(summary(report))
    print(conclusion(report))
    if figure is not None:
        draw(report, figure)
    print(f"Wrote {out}" + (f" and {figure}" if figure else ""))
    return report


def _teacher(cli: HeroCLI) -> HindsightTeacher:
    """The configuration's teacher; the default one for objectives without a teacher."""
    objective = cli.model.objective
    if not isinstance(objective, SelfDistillation):
        return HindsightTeacher(template=AUTO)
    teacher = objective.teacher
    if (
        not isinstance(teacher, HindsightTeacher)
        or isinstance(teacher, EmptyHintTeacher)
        or not teacher.include_diagnosis
    ):
        raise ConfigError(
            f"{type(teacher).__name__} shows no diagnoses, so there is no wording to measure. Use a configuration with "
            "a HindsightTeacher that does."
        )
    return teacher


def _diagnoses(cli: HeroCLI, played: list[Trajectory], policy: Policy, labels: Labels) -> list[Reflection]:
    """Diagnoses by rule, or by the reflector of the configuration."""
    rules = _rules(played)
    if labels == "rules" and rules is None:
        raise ConfigError(f"--labels=rules: {cli.datamodule.env!r} has no rules. Use --labels reflector.")
    if rules is not None and labels != "reflector":
        return rules.reflect(played, policy)
    objective = cli.model.objective
    if not isinstance(objective, SelfDistillation):
        raise ConfigError(
            f"{type(objective).__name__} has no reflector to diagnose the turns. Use a configuration of HERO, with "
            "SelfDistillation."
        )
    objective.reflector.start(policy)
    return objective.reflector.reflect(played, policy)


def _rules(played: list[Trajectory]) -> RuleReflector | None:
    """The rules for these episodes, if there are any."""
    firsts = [trajectory.first_observation for trajectory in played]
    every = (kind() for kind in RULES)
    return next((rules for rules in every if all(rules.open(first) for first in firsts)), None)
