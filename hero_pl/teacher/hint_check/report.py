"""The report of a measurement: the best wording, a table, JSON, and a figure."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_pl.runs.jsonl import finite
from hero_pl.runs.plots import figure_class, save_figure
from hero_pl.teacher.hint_check.cases import Arm, Case
from hero_pl.teacher.hint_check.rounds import Rounds
from hero_pl.teacher.hint_check.verdict import Judged, Kind, bare_probability
from hero_pl.teacher.render import HintTemplate
from hero_pl.teacher.wordings import Wording

if TYPE_CHECKING:
    from rich.table import Table

    from hero_pl.policy.base import Policy


_COLUMNS = {
    "own\nhint": Arm.HINT.value,
    "shuf-\nfled": Arm.SHUFFLED.value,
    "emp-\nty": Arm.SCAFFOLD.value,
    "wrong\nobey": Arm.WRONG.value,
}
"""Heads of the columns with probabilities on blamed turns: of the corrected action, and last of the wrong target."""


@dataclass(frozen=True, slots=True)
class HintReport:
    """Results of all wordings for one policy."""

    judged: tuple[Judged, ...]
    """The highest mean preference over all turns first; wordings that were dropped last."""
    best: Judged | None
    """The wording to use; ``None`` if no wording helps (with its interval above 0)."""
    blamed: int
    """Turns with a corrected action."""
    right: int
    """Turns called right."""
    episodes: int
    bare: dict[str, float]
    """Mean probability without hint of the ``wanted`` reply on blamed turns, of the ``wrong target`` there, and of the
    action taken on turns called ``right``."""
    tokens: int
    """Number of tokens that were processed by the network."""
    seconds: float
    too_long: int
    """Contexts with a hint that the policy's context length has no room for; they are left out."""

    @property
    def first(self) -> Judged:
        """The wording with the highest mean, resolved or not."""
        return self.judged[0]

    def to_json(self) -> dict[str, Any]:
        """JSON values; values that were not measured, and infinite ones, are null."""
        return {
            "best": _named(self.best.wording) if self.best else None,
            **{name: getattr(self, name) for name in ("blamed", "right", "episodes", "tokens", "too_long")},
            "seconds": round(self.seconds, 2),
            "no_hint": finite(self.bare),
            "wordings": [finite({**_named(one.wording), **_judged(one)}) for one in self.judged],
        }


UNLIKELY = 0.05
WEAK = (
    "Even with its hint the corrected action stays unlikely. Long replies are always that; if actions are short, the "
    "policy needs a warm start before hints can teach it."
)
FLAT = 0.15
"""So much more often the corrected action is first than it is likely, before a sharper teacher is proposed."""
SHARPER = (
    "The hint puts the corrected action first more often than it makes it likely: a sharper teacher, "
    "teacher_temperature 0.5, may teach more of it."
)


def check_hints(
    cases: Sequence[Case],
    templates: Mapping[Wording, HintTemplate],
    policy: Policy,
    arms: Sequence[Arm],
    own: str | None = None,
    drop: bool = True,
) -> HintReport:
    """Measure and judge every wording on the turns of all processes.

    Args:
        cases: Turns of this process.
        templates: The wordings.
        policy: Loaded.
        arms: What is tried; :attr:`Arm.HINT` is needed.
        own: Template that the configuration has; another one is best only if it surely helps more.
        drop: Whether to measure in rounds, and wordings that are not taken only in part (:class:`Rounds`); otherwise
            all of them in every arm.
    """
    rounds = Rounds(cases, templates, policy)
    judged = rounds.spared(arms, own) if drop else rounds.whole(arms)
    last = rounds.done[-1]
    return HintReport(
        tuple(judged),
        _best(judged, own),
        sum(last.blamed),
        len(last.blamed) - sum(last.blamed),
        len(set(last.episodes)),
        {
            "wanted": bare_probability(last, blamed=True),
            Arm.WRONG.value: bare_probability(last, blamed=True, wrong=True),
            "right": bare_probability(last, blamed=False),
        },
        sum(one.tokens for one in rounds.done),
        sum(one.seconds for one in rounds.done),
        sum(one.too_long for one in rounds.done[1:] or rounds.done),  # the first round has some of the same contexts
    )


def _best(judged: Sequence[Judged], own: str | None) -> Judged | None:
    """The usable wording that helps most, or the configuration's own if the difference is not resolved."""
    usable = sorted((one for one in judged if one.kind is Kind.USABLE), key=lambda one: -one.overall.mean)
    kept = (one for one in usable if one.wording.template == own and one.overall.high >= usable[0].overall.mean)
    return next(kept, usable[0] if usable else None)


def choice(report: HintReport, arguments: str = "--model.objective.init_args.teacher.init_args") -> str:
    """Options to add to a command line; empty if no wording helps."""
    if report.best is None:
        return ""
    wording = report.best.wording
    position = f" {arguments}.position {wording.position}" if wording.position else ""
    return f"{arguments}.template {wording.template}{position}"


def summary(report: HintReport) -> str:
    """One line with the best wording, the reason, and the cost of the measurement."""
    cost = f"{report.tokens} tokens, {report.seconds:.1f} s"
    turns = f"{report.blamed} blamed turns and {report.right} called right, of {report.episodes} episodes"
    best = report.best
    if best is None:
        return f"No wording surely helps on {turns} ({cost})."
    before, after, first = report.bare["wanted"], best.probability[Arm.HINT.value], best.first["blamed"]
    line = (
        f"{best.wording}: P(corrected action) {before:.2f} without hint, {after:.2f} with it, first on {first:.2f} of "
        f"the blamed turns; all turns {best.overall}; on {turns} ({cost})."
    )
    advice = WEAK if after < UNLIKELY else SHARPER if first - after >= FLAT else ""
    return f"{line} {advice}".rstrip()


def conclusion(report: HintReport) -> str:
    """What to do: use the best wording, measure more, or not train."""
    if report.best is not None:
        return f"Use it: {choice(report)}"
    if not report.blamed:
        return (
            "Nothing could be measured: no turn has a corrected action. Look at the diagnoses, play more --episodes, "
            "or take --labels rules where the environment has rules."
        )
    open_ = [str(one.wording) for one in report.judged if one.kind is Kind.UNRESOLVED]
    if open_:
        return f"Not resolved: {', '.join(open_)}. Measure more --episodes and --turns before you train with hints."
    return "No wording helps: do not train with hints of this policy."


def refusal(report: HintReport) -> str:
    """Message why training does not start, with the table."""
    if not report.blamed:
        why = (
            "no turn of the first batch was given a corrected action, so nothing can be measured. Raise "
            "data.tasks_per_step, look at the reflections (trajectories.jsonl), or name a template."
        )
    else:
        why = (
            "no wording of the hint surely makes this policy's corrected actions more likely than no hint does. "
            "Training would pull it away from what it does right. Give the policy a warm start, write a wording of "
            "your own (teacher.init_args.candidates), or measure on more episodes: hero_pl check-hints."
        )
    return f"template: auto: {why} To train anyway: --force true.\n{table_text(report)}"


def table_text(report: HintReport, width: int = 88) -> str:
    """The table as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(to_table(report))
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined, no-any-return]


def to_table(report: HintReport) -> Table:
    """One row per wording: preferences with intervals, and probabilities."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{report.blamed} blamed turns, {report.right} called right, {report.episodes} episodes\n"
        "Preference for the wanted reply, -1 to 1 [95 %], and mean probabilities"
    )
    table.box, table.pad_edge, table.collapse_padding = SIMPLE, False, True
    table.add_column("wording\nverdict", overflow="fold")
    for head in ("all\nturns", "blamed\nturns"):
        table.add_column(head, no_wrap=True)
    for head in (*_COLUMNS, "right\nturn"):
        table.add_column(head, justify="right", no_wrap=True)
    bare = report.bare
    shares = [_share(bare["wanted"]), "", "", _share(bare[Arm.WRONG.value]), _share(bare["right"])]
    table.add_row("no hint", "", "", *shares)
    for one in report.judged:
        changes = (str(change).replace(" [", "\n[") for change in (one.overall, one.blamed))
        shares = [_share(one.probability.get(key, math.nan)) for key in (*_COLUMNS.values(), "right")]
        cells = (f"{one.wording}\n  {one.kind.value}", *changes, *shares)
        table.add_row(*(Text(cell) for cell in cells), style="" if one.kind is Kind.USABLE else "dim")
    return table


def draw(report: HintReport, out: Path) -> None:
    """Plot the preferences with every wording, with intervals, as PNG or SVG by the suffix of the file.

    Raises:
        ConfigError: matplotlib is not installed.
        HeroError: The file cannot be written.
    """
    kinds = {"hint, blamed turns": "blamed", "hint, turns called right": "right", "shuffled": "shuffled"}
    kinds |= {"wrong target (obeyed)": "obeyed", "empty scaffold": "scaffold"}
    figure = figure_class()(figsize=(9.0, 1.5 + 0.75 * len(report.judged)), layout="constrained")
    axes = figure.subplots()
    for k, (label, name) in enumerate(kinds.items()):
        points = [(i, change) for i, one in enumerate(report.judged) if (change := getattr(one, name)).turns]
        places = [i + 0.14 * (k - 2) for i, _ in points]
        means = [change.mean for _, change in points]
        ends = [[change.mean - change.low for _, change in points], [change.high - change.mean for _, change in points]]
        ends_shown = [[0.0 if math.isinf(x) else x for x in side] for side in ends]
        axes.errorbar(means, places, xerr=ends_shown, fmt="o", capsize=2, label=label)
    axes.axvline(0.0, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(report.judged)), [f"{one.wording}\n{one.kind.value}" for one in report.judged])
    axes.invert_yaxis()
    axes.set_xlabel("preference for the reply against no hint: (p - p0) / (p + p0)")
    axes.legend(fontsize="small")
    save_figure(figure, out, 120)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _named(wording: Wording) -> dict[str, str | None]:
    return {"template": wording.template, "position": wording.position}


def _judged(one: Judged) -> dict[str, Any]:
    changes = ("overall", "blamed", "right", "obeyed", "shuffled", "content", "scaffold", "feedback")
    values: dict[str, Any] = {"verdict": one.kind.value, "refused": one.refused or None}
    values |= {name: asdict(change) if (change := getattr(one, name)).turns else None for name in changes}
    return {**values, "probability": one.probability, "gain_nats": one.gain, "ranked_first": one.first}
