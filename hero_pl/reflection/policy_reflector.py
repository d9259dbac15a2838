"""Review episodes with another local model, for example a larger one; no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ConfigError
from hero_pl.policy.base import Policy
from hero_pl.reflection.self_reflector import SelfReflector

if TYPE_CHECKING:
    from hero_pl.types import Reflection, Trajectory


class PolicyReflector(SelfReflector):
    """Like :class:`SelfReflector`, but asks a second policy with fixed weights instead of the trained policy.

    Args:
        policy: The reviewer. It is loaded when training starts, on the device of the trained policy.
        **settings: Settings of :class:`SelfReflector`, except ``weights``. With ``mode: continue`` the prompt contains
            the ids of the episode, so both policies need the same tokenizer.
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
            ConfigError: With ``mode: continue``, the reviewer has another tokenizer.
            PolicyError: The reviewer cannot be loaded.
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
                    f"policy {len(own)}), so it cannot use the ids of the episode. Use mode: transcript."
                )

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`; the trained policy is not used."""
        self.policy.load()
        return super().reflect(trajectories, self.policy)
