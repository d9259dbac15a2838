"""What to watch about reflections while training.

Coverage that drifts down means that the reflector, which shares the policy's weights by default, is degrading. The loss
looks *better* then while the method starves, so these numbers belong in every log.
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
        ``strict_rate``, ``repaired_rate``, ``rejected_rate``: shares of the reflections. ``coverage``: share of turns
        with a diagnosis. ``leak_rate``: share of turns whose diagnosis or target told the future. ``target_rate``,
        ``confidence/low|medium|high``: shares of the diagnoses. ``diagnosis_chars``: mean length. ``tokens``: generated
        in all. ``retries``: further questions after unusable answers. ``issues/<code>``: how often each issue occurred.
        Shares of nothing are not measured.
    """
    diagnoses = [diagnosis for reflection in reflections for diagnosis in reflection.diagnoses if diagnosis]
    turns = sum(len(reflection.diagnoses) for reflection in reflections)
    leaking = sum(len({turn for code, turn in reflection.issues if code in _LEAKS}) for reflection in reflections)
    statuses = Counter(reflection.status for reflection in reflections)
    confidences = Counter(diagnosis.confidence for diagnosis in diagnoses)
    issues = Counter(code for reflection in reflections for code, _ in reflection.issues)
    return {
        "strict_rate": share(sum(reflection.strict for reflection in reflections), len(reflections)),
        "repaired_rate": share(statuses["repaired"], len(reflections)),
        "rejected_rate": share(statuses["rejected"], len(reflections)),
        "coverage": share(len(diagnoses), turns),
        "leak_rate": share(leaking, turns),
        "target_rate": share(sum(diagnosis.next_action_target is not None for diagnosis in diagnoses), len(diagnoses)),
        "diagnosis_chars": share(sum(len(diagnosis.text) for diagnosis in diagnoses), len(diagnoses)),
        "tokens": total(sum(reflection.tokens for reflection in reflections)),
        "retries": total(issues["retried"]),
        **{f"confidence/{level}": share(confidences[level], len(diagnoses)) for level in get_args(Confidence)},
        **{f"issues/{code}": total(times) for code, times in sorted(issues.items())},
    }
