"""docs/method.md quotes the current prompts, and names settings and components that exist."""

import inspect
import re
from pathlib import Path

import pytest

from hero_pl.callbacks.collapse_guard import CollapseGuard
from hero_pl.cli.components import registered
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.self_reflector import REVIEW, SelfReflector
from hero_pl.teacher.hindsight import HindsightTeacher

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
PROMPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "hero_pl").rglob("*.jinja")
    if not {"checkpoints", "export", "project"} & set(path.parts)  # cards and files of a new project are no prompts
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_page_quotes_each_prompt_as_it_is(prompt: str) -> None:
    text = (ROOT / prompt).read_text(encoding="utf-8")
    quoted = text if text.endswith("\n") else text + "\n"
    assert f"`{prompt}`:\n\n```jinja\n{quoted}```\n" in PAGE


def test_the_page_quotes_the_request_for_a_review() -> None:
    assert f"```\n{REVIEW}\n```" in PAGE


def test_every_component_that_the_page_names_exists() -> None:
    known = {cls.__name__ for classes in registered().values() for cls in classes}
    named = set(re.findall(r"`(?:\w+: )?([A-Z][a-z]+(?:[A-Z][A-Za-z]+)+)`", PAGE))
    assert {"SelfReflector", "HindsightTeacher", "JensenShannon", "InitialWeights"} <= named
    assert named <= known


def test_every_knob_of_the_tables_exists() -> None:
    components = [cls for classes in registered().values() for cls in classes]
    arguments = {name for cls in (*components, CollapseGuard) for name in inspect.signature(cls).parameters}
    rows = [line.split("|")[-2] for line in PAGE.splitlines() if line.startswith("| ")]
    knobs = {knob for row in rows for knob in re.findall(r"`(?:\w+\.)*([a-z_]+)(?:: [^`]+)?`", row)}
    assert {"on_invalid", "hint_position", "probe_turns", "teacher_scoring"} <= knobs
    elsewhere = {"collapse_guard", "lr", "objective", "group_size", "pretrained"}  # callbacks, module and data
    elsewhere |= {"updates_per_batch", "max_staleness"}
    assert knobs - arguments - elsewhere == set()
    for cls, names in (
        (SelfDistillation, {"probe_every", "normalize", "failures_only"}),
        (SelfReflector, {"mode", "retries"}),
        (HindsightTeacher, {"template", "include_action_target"}),
        (HuggingFacePolicy, {"hint_position"}),
    ):
        assert names <= set(inspect.signature(cls).parameters)
