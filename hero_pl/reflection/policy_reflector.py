"""Another local model reviews the episodes: a larger one, or one that was made elsewhere; no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ConfigError
from hero_pl.policy.base import Policy
from hero_pl.reflection.self_reflector import SelfReflector

if TYPE_CHECKING:
    from hero_pl.types import Reflection, Trajectory


class PolicyReflector(SelfReflector):
    """Asks a second policy, whose weights never change, as :class:`SelfReflector` asks the one that is trained.

    Args:
        policy: The reviewer. It is loaded when training starts, onto the device of the policy that is trained.
        **settings: Those of :class:`SelfReflector` but for ``weights``. With ``mode: continue`` the reviewer reads the
            episode's own ids, so both policies need one tokenizer.
    """

    def __init__(self, policy: Policy, **settings: Any) -> None:
        super().__init__(weights="live", **settings)
        self.policy = policy

    def check_policy(self, policy: Policy) -> None:
        """See :meth:`Reflector.check_policy`; the policy that is trained is not asked."""
        super().check_policy(self.policy)

    def start(self, policy: Policy) -> None:
        """Load the reviewer.

        Raises:
            ConfigError: ``mode: continue``, and the reviewer has another tokenizer.
            PolicyError: It cannot be loaded.
        """
        self.policy.load()
        self.policy.requires_grad_(False)
        parameter = next(policy.parameters(), None)
        if parameter is not None:
            self.policy.to(parameter.device)
        if self.mode == "continue":
            own, other = policy.template.tokenizer.get_vocab(), self.policy.template.tokenizer.get_vocab()
            if own != other:
                raise ConfigError(
                    f"PolicyReflector(mode='continue'): the reviewer has another tokenizer ({len(other)} entries, the "
                    f"policy {len(own)}), so the episode's ids mean something else to it. Use mode: transcript."
                )

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`; the policy that is trained is not asked."""
        self.policy.load()
        return super().reflect(trajectories, self.policy)
