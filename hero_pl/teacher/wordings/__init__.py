"""The wordings of hints in the package, and their positions.

A wording is a Jinja file in this folder. ``full`` contains everything as prose. The others contain the diagnosis and
the corrected action in as few words as possible, and the observation only if there is no diagnosis. Which wording a
model can use differs between models; :mod:`hero_pl.teacher.hint_check` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hero_pl.types import HintPosition

AUTO = "auto"
"""Name for: measure on the first training batch, then use the wording that helps most."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A hint template and the position of the hint."""

    template: str
    """Name of a wording of the package, or a path as in the configuration."""
    position: HintPosition | None = None
    """``None``: the policy's ``hint_position``."""

    def __str__(self) -> str:
        return self.template if self.position is None else f"{self.template} @ {self.position}"


POSITIONS: dict[str, tuple[HintPosition, ...]] = {
    "short": ("before_action", "last_message"),
    "reply_exactly": ("before_action", "last_message"),
    "inline": ("last_message",),
    "chat": ("after_draft",),
    "full": ("before_action", "last_message"),
}
"""Shipped wordings and the positions that are measured; one with a single position always goes there.

If several wordings are equally good, the first one in this order is used: prose comes last.
"""
OTHER_POSITIONS: tuple[HintPosition, ...] = ("before_action", "last_message")
"""Positions to measure for the user's own templates."""


def wordings(templates: list[str] | None = None) -> list[Wording]:
    """Every template at each of its positions.

    Args:
        templates: Names or paths; default: all wordings of the package.
    """
    chosen = list(POSITIONS) if templates is None else templates
    return [Wording(name, position) for name in chosen for position in POSITIONS.get(name, OTHER_POSITIONS)]


def own_position(template: str | None) -> HintPosition | None:
    """The position of a wording, if it has only one."""
    positions = POSITIONS.get(template or "", ())
    return positions[0] if len(positions) == 1 else None
