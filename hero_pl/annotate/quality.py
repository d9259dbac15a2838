"""Quality of diagnoses: sampling turns for annotation, agreement of the raters, and the report on their labels.

Raters (people or a judge model) see a turn, its reply and one diagnosis, and answer :data:`QUESTIONS` with true, false
or null. They do not see which arm a diagnosis comes from: shuffled diagnoses are mixed in and give the baseline that
true diagnoses have to exceed. All functions here are pure.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, get_args

from hero_pl.errors import ConfigError
from hero_pl.types import Confidence, Reflection, Trajectory

Label: TypeAlias = Hashable | None
"""An answer; ``None`` if the rater gave none."""

RESAMPLES = 500
"""Resamples of the bootstrap over episodes."""
QUESTIONS: Mapping[str, str] = {
    "turn_was_error": "Was the action of this turn a mistake, given what was known then?",
    "says_error": "Does the diagnosis say that it was a mistake?",
    "grounded": "Does everything in the diagnosis follow from the action and the reply?",
    "error_type": "Is the kind of problem (wrong decision, tool failure, waste, none) named correctly?",
    "actionable": "Could the assistant act better at that moment with this diagnosis?",
    "leaks_future": "Does it tell something that only later turns reveal?",
    "target_valid": "Is next_action_target a correct better action? null where there is none.",
}


# --- sampling --------------------------------------------------------------------------------------------------------


def sample_turns(
    trajectories: Sequence[Trajectory], arms: Mapping[str, Sequence[Reflection]], turns: int, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Draw turns at random for annotation: the same turns for every arm, in random order.

    Args:
        trajectories: Finished episodes.
        arms: Reflections on these trajectories by arm, for example ``{"true": ..., "shuffled": ...}``.
        turns: Number of turns to draw from those with a diagnosis in every arm; all of them if there are fewer.
        seed: Determines the draw and the order.

    Returns:
        The rows for the raters, one per turn and arm, with empty ``labels``; and the key, the arm of each row by its
        ``id``, which raters must not see.

    Raises:
        ConfigError: The reflections of an arm do not fit the trajectories, or ``turns`` is not positive.
    """
    if turns < 1:
        raise ConfigError(f"sample_turns(turns={turns}): expected at least 1.")
    for arm, reflections in arms.items():
        if [len(one.diagnoses) for one in reflections] != [len(one.turns) for one in trajectories]:
            raise ConfigError(
                f"Arm {arm!r} has reflections on other episodes: expected one reflection per trajectory with one "
                "entry per turn, in the same order."
            )
    places = [
        (episode, turn)
        for episode, trajectory in enumerate(trajectories)
        for turn in range(len(trajectory.turns))
        if arms and all(reflections[episode].diagnoses[turn] for reflections in arms.values())
    ]
    rng = random.Random(seed)
    drawn = rng.sample(places, min(turns, len(places)))
    keyed = [
        (_row(trajectories[episode], turn, reflections[episode], f"{seed}/{episode}/{turn}/{arm}"), arm)
        for episode, turn in drawn
        for arm, reflections in arms.items()
    ]
    rng.shuffle(keyed)
    return [row for row, _ in keyed], {row["id"]: arm for row, arm in keyed}


def _row(trajectory: Trajectory, turn: int, reflection: Reflection, name: str) -> dict[str, Any]:
    diagnosis = reflection.diagnoses[turn]
    assert diagnosis is not None
    played = trajectory.turns[turn]
    row = {
        "task_id": trajectory.task_id,
        "seed": trajectory.seed,
        "turn": played.number,
        "turns": len(trajectory.turns),
        "reward": trajectory.reward,
        "task": trajectory.first_observation,
        "history": [
            {"action": one.text, "sent": one.action, "reply": one.observation} for one in trajectory.turns[:turn]
        ],
        "action": played.text,
        "sent": played.action,
        "reply": played.observation,
        "diagnosis": diagnosis.text,
        "confidence": diagnosis.confidence,
        "next_action_target": diagnosis.next_action_target,
        "labels": dict.fromkeys(QUESTIONS),
    }
    # of the content, too: rows of another run with as many episodes and turns are not the same
    return {"id": hashlib.sha256(json.dumps([name, row]).encode()).hexdigest()[:16], **row}


# --- agreement -------------------------------------------------------------------------------------------------------


def cohen_kappa(first: Sequence[Label], second: Sequence[Label]) -> float:
    """Agreement of two raters beyond chance: ``(p_o - p_e) / (1 - p_e)`` (Cohen, 1960).

    Args:
        first: Answers of one rater; items without an answer from both raters are skipped.
        second: Answers of the other rater, in the same order.

    Returns:
        1 for perfect agreement, 0 for chance, NaN if undefined (no items, or all answers are the same).
    """
    if len(first) != len(second):
        raise ConfigError(
            f"cohen_kappa: {len(first)} and {len(second)} answers; expected one per item from each rater."
        )
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not pairs:
        return math.nan
    observed = sum(a == b for a, b in pairs) / len(pairs)
    of_first, of_second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(of_first[label] * of_second[label] for label in of_first) / len(pairs) ** 2
    return _beyond_chance(observed, expected)


def fleiss_kappa(items: Sequence[Sequence[Label]]) -> float:
    """Agreement beyond chance of any fixed number of raters who answered every item (Fleiss, 1971).

    Args:
        items: For each item the answers of its raters; the same number per item, none missing.

    Returns:
        As for :func:`cohen_kappa`.

    Raises:
        ConfigError: An item has a missing answer, fewer than two answers, or not as many as the first item.
    """
    if not items:
        return math.nan
    raters = len(items[0])
    if raters < 2 or any(len(item) != raters or None in item for item in items):
        raise ConfigError(
            "fleiss_kappa needs the same number of answers (two or more) for every item, none missing. "
            "Use krippendorff_alpha where answers are missing."
        )
    counts = [Counter(item) for item in items]
    agreeing = [sum(n * (n - 1) for n in count.values()) / (raters * (raters - 1)) for count in counts]
    totals = sum(counts, Counter[Label]())
    expected = sum((n / (len(items) * raters)) ** 2 for n in totals.values())
    return _beyond_chance(sum(agreeing) / len(items), expected)


def krippendorff_alpha(items: Iterable[Sequence[Label]]) -> float:
    """Krippendorff's alpha for nominal labels; answers may be missing and the number of raters may differ.

    Args:
        items: For each item the answers of its raters, ``None`` where missing. Items with fewer than two answers are
            skipped.

    Returns:
        ``1 - D_o / D_e``: 1 for perfect agreement, 0 for chance, NaN if undefined.
    """
    counts = [Counter(label for label in item if label is not None) for item in items]
    counts = [count for count in counts if count.total() > 1]
    totals = sum(counts, Counter[Label]())
    size = totals.total()
    if size == 0:
        return math.nan
    # Coincidences: each ordered pair of answers to one item, weighted by 1 / (answers - 1).
    disagreeing = sum(
        (count.total() ** 2 - sum(n * n for n in count.values())) / (count.total() - 1) for count in counts
    )
    by_chance = (size**2 - sum(n * n for n in totals.values())) / (size - 1)
    return 1.0 - disagreeing / by_chance if by_chance else math.nan


def _beyond_chance(observed: float, expected: float) -> float:
    return math.nan if math.isclose(expected, 1.0) else (observed - expected) / (1.0 - expected)


# --- report ----------------------------------------------------------------------------------------------------------


def quality_report(
    raters: Sequence[Sequence[Mapping[str, Any]]], key: Mapping[str, str], gold: Sequence[Mapping[str, Any]] = ()
) -> dict[str, dict[str, float]]:
    """Summarize labeled rows per arm, and the agreement of the raters over all arms.

    Args:
        raters: The labeled rows of each rater, in any order.
        key: Arm of each row by ``id``, as returned by :func:`sample_turns`.
        gold: Rows whose labels replace the majority of the raters, for example labels by rule; where such a row has
            no label, the majority is used.

    Returns:
        Per arm: ``rows``; the share of yes for each question (missing and tied answers left out); ``error/precision``,
        ``error/recall`` and ``error/rows`` of the statement "this turn was an error"; and
        ``calibration/low|medium|high``, the share of correct verdicts among diagnoses of that confidence. All but the
        numbers of rows also have ``.../from`` and ``.../to``, a 95 % interval from a bootstrap over episodes, unless
        all draws are equal. Under ``agreement``, per question: ``<question>/cohen`` (two raters), ``<question>/fleiss``
        (rows that all raters answered), ``<question>/alpha`` (Krippendorff's) and ``<question>/tied``, the number of
        rows without a majority.

    Raises:
        ConfigError: A row is not in the key.
    """
    for given in (*raters, gold):
        if unknown := sorted({row["id"] for row in given} - set(key)):
            raise ConfigError(
                f"Row {unknown[0]!r} is not in the key. Give the key file that was written with these rows."
            )
    rows: dict[str, Mapping[str, Any]] = {}
    answers: dict[str, list[Mapping[str, Label]]] = {}
    for rater in raters:
        labels = {row["id"]: row["labels"] for row in rater}
        rows |= {row["id"]: row for row in rater}
        for name in key:
            answers.setdefault(name, []).append(labels.get(name, {}))
    true = {name: {q: majority(one.get(q) for one in answers[name]) for q in QUESTIONS} for name in rows}
    for row in gold:
        known = {q: label for q, label in row["labels"].items() if label is not None}
        if row["id"] in true:
            true[row["id"]] |= known
    report = {
        arm: _arm_report([name for name in rows if key[name] == arm], rows, true) for arm in dict.fromkeys(key.values())
    }
    report["agreement"] = {}
    for question in QUESTIONS:
        items = [[one.get(question) for one in answers[name]] for name in rows]
        agreement = report["agreement"]
        if len(raters) == 2:
            agreement[f"{question}/cohen"] = cohen_kappa([a for a, _ in items], [b for _, b in items])
        whole = [item for item in items if None not in item]
        agreement[f"{question}/fleiss"] = fleiss_kappa(whole) if len(raters) > 1 else math.nan
        agreement[f"{question}/alpha"] = krippendorff_alpha(items)
        tied = sum(majority(item) is None and any(label is not None for label in item) for item in items)
        agreement[f"{question}/tied"] = float(tied)
    return report


def majority(labels: Iterable[Label]) -> Label:
    """The most frequent answer; ``None`` on a tie or without answers."""
    counts = Counter(label for label in labels if label is not None).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def precision_recall(predicted: Sequence[Label], actual: Sequence[Label]) -> tuple[float, float]:
    """Precision and recall of the statement "this turn was an error", over the turns where both labels are known.

    Args:
        predicted: Whether the diagnosis calls the turn an error.
        actual: Whether the turn was an error.

    Returns:
        Precision and recall; NaN if the denominator is 0.
    """
    known = [(a, b) for a, b in zip(predicted, actual, strict=True) if a is not None and b is not None]
    hits = sum(bool(a) and bool(b) for a, b in known)
    return _share(hits, sum(bool(a) for a, _ in known)), _share(hits, sum(bool(b) for _, b in known))


def calibration(
    confidences: Sequence[Confidence], predicted: Sequence[Label], actual: Sequence[Label]
) -> dict[Confidence, tuple[float, int]]:
    """Per confidence level: the share of diagnoses with a correct verdict, and the number of diagnoses."""
    levels: tuple[Confidence, ...] = get_args(Confidence)
    result: dict[Confidence, tuple[float, int]] = {}
    for level in levels:
        right = [
            a == b
            for confidence, a, b in zip(confidences, predicted, actual, strict=True)
            if confidence == level and a is not None and b is not None
        ]
        result[level] = (_share(sum(right), len(right)), len(right))
    return result


def _arm_report(
    names: Sequence[str], rows: Mapping[str, Mapping[str, Any]], gold: Mapping[str, Mapping[str, Label]]
) -> dict[str, float]:
    measures = _measures(names, rows, gold)
    episodes: dict[tuple[str, int], list[str]] = {}
    for name in names:
        episodes.setdefault((rows[name].get("task_id", name), rows[name].get("seed", 0)), []).append(name)
    drawn = random.Random(0)
    clusters = list(episodes.values())
    samples = [
        _measures([name for part in drawn.choices(clusters, k=len(clusters)) for name in part], rows, gold)
        for _ in range(RESAMPLES if len(clusters) > 1 else 0)
    ]
    report: dict[str, float] = {}
    for measure, value in measures.items():
        report[measure] = value
        values = sorted(sample[measure] for sample in samples if not math.isnan(sample[measure]))
        if values and not measure.endswith("rows"):
            low, high = (values[round(share * (len(values) - 1))] for share in (0.025, 0.975))
            if low < high:  # without spread an interval would claim certainty
                report |= {f"{measure}/from": low, f"{measure}/to": high}
    return report


def _measures(
    names: Sequence[str], rows: Mapping[str, Mapping[str, Any]], gold: Mapping[str, Mapping[str, Label]]
) -> dict[str, float]:
    answers = {question: [gold[name][question] for name in names] for question in QUESTIONS}
    predicted, actual = answers["says_error"], answers["turn_was_error"]
    precision, recall = precision_recall(predicted, actual)
    known = {question: [answer for answer in given if answer is not None] for question, given in answers.items()}
    levels = calibration([rows[name]["confidence"] for name in names], predicted, actual)
    return {
        "rows": float(len(names)),
        **{question: _share(sum(map(bool, given)), len(given)) for question, given in known.items()},
        "error/precision": precision,
        "error/recall": recall,
        "error/rows": float(sum(a is not None and b is not None for a, b in zip(predicted, actual, strict=True))),
        **{f"calibration/{level}": share for level, (share, _) in levels.items()},
        **{f"calibration/{level}/rows": float(number) for level, (_, number) in levels.items()},
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
