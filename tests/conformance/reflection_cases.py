"""Check the reflection parser against case files: ``python tests/conformance/reflection_cases.py FILE...``.

A file holds one ``trajectory`` and ``cases`` of ``{id, raw, expected: {status, strict, turns, issues}}``. The settings
``leak_policy``, ``leak_ngram`` and ``max_diagnosis_chars`` and the trajectory may be given for the file or for a case.
Failing cases are printed with what differs; the last line counts. The exit status is 1 if any case
fails, if a file cannot be read, and if there is no case at all.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for a checkout that is not installed

from hero_pl.reflection.parse import ReflectionContext, parse_reflection

SETTINGS = ("leak_policy", "leak_ngram", "max_diagnosis_chars")


def check_file(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each case's id with its differences (none if it passes); an unreadable file is one failed case."""
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        cases = [{**file, **case} for case in file["cases"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield str(path), [f"not a case file: {type(error).__name__}: {error}"]
        return
    for case in cases:
        try:
            problems = differences(case)
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
        yield str(case.get("id")), problems


def differences(case: Mapping[str, Any]) -> list[str]:
    episode = case["trajectory"]
    context = ReflectionContext(
        context=episode["context"],
        actions=tuple(episode["actions"]),
        observations=tuple(episode["observations"]),
        tools=tuple(episode["tools"] or ()),  # null where actions are plain text
        final_reward=episode["final_reward"],
    )
    settings = {name: case[name] for name in SETTINGS if name in case}
    reflection = parse_reflection(case["raw"], turns=len(context.actions), context=context, **settings)
    got = {
        "status": reflection.status,
        "strict": reflection.strict,
        "issues": sorted([code, turn] for code, turn in reflection.issues),
        "turns": [
            diagnosis
            and {
                "diagnosis": diagnosis.text,
                "confidence": diagnosis.confidence,
                "next_action_target": diagnosis.next_action_target,
            }
            for diagnosis in reflection.diagnoses
        ],
    }
    wanted = {**case["expected"], "issues": sorted(case["expected"]["issues"])}
    return [f"{name}: expected {wanted[name]!r}, got {got[name]!r}" for name in wanted if got[name] != wanted[name]]


def main(paths: list[str]) -> int:
    if not paths:
        print("usage: python tests/conformance/reflection_cases.py FILE...")
        return 2
    passed = failed = 0
    for path in map(Path, paths):
        for name, problems in check_file(path):
            passed, failed = passed + (not problems), failed + bool(problems)
            if problems:
                print("\n  ".join([f"FAILED {path.name}::{name}", *problems]))
    if not passed + failed:
        print("FAILED: no case in the given files")
        failed = 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
