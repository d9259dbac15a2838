"""Metrics of reflections for the training log.

A decreasing coverage means that the reflector, which shares the policy's weights by default, is degrading. The loss
then looks *better*, although fewer turns are trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from hero_pl.scalars import Scalar, share, total
from hero_pl.types import Confidence, Reflection

_LEAKS = {"leak_ngram", "leak_identifier", "target_leak"}


def reflection_statistics(reflections: Sequence[Reflection]) -> dict[str, Scalar]:
    """Summarize a batch of reflections.

    Args:
        reflections: One per trajectory.

    Returns:
        ``strict_rate``, ``repaired_rate``, ``rejected_rate``: fractions of the reflections on episodes with turns.
        ``without_turns``: number of the others; nothing was asked about them. ``coverage``: fraction of turns with a
        diagnosis. ``leak_rate``: fraction of turns whose diagnosis or target had later information.
        ``target_rate``, ``confidence/low|medium|high``: fractions of the diagnoses. ``diagnosis_chars``: mean length.
        ``tokens``: total number of generated tokens. ``retries``: requests after unusable answers. ``issues/<code>``:
        number of occurrences of each issue. Fractions of zero items are not measured.
    """
    asked = [reflection for reflection in reflections if reflection.diagnoses]
    diagnoses = [diagnosis for reflection in reflections for diagnosis in reflection.diagnoses if diagnosis]
    turns = sum(len(reflection.diagnoses) for reflection in reflections)
    leaking = sum(len({turn for code, turn in reflection.issues if code in _LEAKS}) for reflection in reflections)
    statuses = Counter(reflection.status for reflection in asked)
    confidences = Counter(diagnosis.confidence for diagnosis in diagnoses)
    issues = Counter(code for reflection in reflections for code, _ in reflection.issues)
    return {
        "strict_rate": share(sum(reflection.strict for reflection in asked), len(asked)),
        "repaired_rate": share(statuses["repaired"], len(asked)),
        "rejected_rate": share(statuses["rejected"], len(asked)),
        "without_turns": total(len(reflections) - len(asked)),
        "coverage": share(len(diagnoses), turns),
        "leak_rate": share(leaking, turns),
        "target_rate": share(sum(diagnosis.next_action_target is not None for diagnosis in diagnoses), len(diagnoses)),
        "diagnosis_chars": share(sum(len(diagnosis.text) for diagnosis in diagnoses), len(diagnoses)),
        "tokens": total(sum(reflection.tokens for reflection in reflections)),
        "retries": total(issues["retried"]),
        **{f"confidence/{level}": share(confidences[level], len(diagnoses)) for level in get_args(Confidence)},
        **{f"issues/{code}": total(times) for code, times in sorted(issues.items())},
    }
