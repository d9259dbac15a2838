"""TRL's trainers on the load of ``whole_step.py``: the same numbers of tokens, forced by a logits processor.

``whole_step.py --peer`` runs it; ``pip install trl==1.16.0`` first. GRPO plays in its own tool loop, with one group of
all episodes. SDPO has no loop of turns, so it gets one sample per turn, with the hint as privileged context; its
divergence is Jensen-Shannon over all logits, and its teacher is live. Both sample from the logits as usual.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.types import Trajectory


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of one episode, all episodes being alike."""

    contexts: tuple[int, ...]
    """Decision context of each turn."""
    action: int
    hint: int
    """What the teacher's context has beyond the student's."""

    @classmethod
    def of(cls, played: Sequence[Trajectory], teacher_ids: Sequence[int]) -> Lengths:
        """Those of the first episode, with the lengths of its teacher rows."""
        turns = played[0].turns
        contexts = tuple(len(turn.prompt_ids) for turn in turns)
        action = len(turns[0].action_ids)
        return cls(contexts, action, teacher_ids[0] - contexts[0] - action)

    @property
    def observation(self) -> int:
        """From the end of an action to the next decision."""
        return self.contexts[1] - self.contexts[0] - self.action


def missing() -> str | None:
    """Why TRL cannot be run here, if it cannot."""
    try:
        import trl
        from trl import GRPOTrainer  # noqa: F401
        from trl.experimental.sdpo import SDPOTrainer  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"TRL cannot be imported ({error}); pip install trl==1.16.0"
    return None if trl.__version__.startswith("1.16.") else f"TRL {trl.__version__} is installed, 1.16 is compared"


class Peer:
    """A trainer of TRL, one step at a time."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.spent = 0.0
        trainer.add_callback(_clock(self))

    def step(self) -> float:
        """CPU seconds of one step: generation, loss, gradient and optimizer."""
        self.trainer.train()
        return self.spent


def _clock(peer: Peer) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            peer.spent = time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            peer.spent = time.process_time() - peer.spent

    return Clock()


def _forced(policy: HuggingFacePolicy, action: int) -> tuple[Any, Any]:
    """Model and tokenizer; the model writes ``action`` tokens, the last of which ends the turn."""
    from transformers import LogitsProcessor, LogitsProcessorList

    model: Any = copy.deepcopy(policy.need_network("whole_step").model).train()
    tokenizer: Any = copy.deepcopy(policy.template.tokenizer)
    letter, end = tokenizer.encode("a", add_special_tokens=False)[0], tokenizer.eos_token_id

    class Forced(LogitsProcessor):
        def __init__(self, start: int) -> None:
            self.stop = start + action - 1

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = scores.fill_(-torch.inf)
            scores[:, end if input_ids.shape[1] >= self.stop else letter] = 0.0
            return scores

    generate = model.generate

    def written(*args: Any, **kwargs: Any) -> Any:
        processors = LogitsProcessorList([Forced(kwargs["input_ids"].shape[1])])
        return generate(*args, logits_processor=processors, **kwargs)

    model.generate = written
    return model, tokenizer


def _settings(**more: Any) -> dict[str, Any]:
    return {
        "max_steps": 1,
        "learning_rate": 1e-9,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "temperature": 1.0,
        "top_k": 0,
        "per_device_train_batch_size": 4,
        **more,
    }


def _reward(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    return [float(i % 2) for i in range(len(completions))]


def grpo(policy: HuggingFacePolicy, lengths: Lengths, episodes: int, folder: str) -> Peer:
    """``GRPOTrainer`` with a tool: as many turns as the load has."""
    import trl.trainer.grpo_trainer as module
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.chat_template_utils import qwen3_chat_template

    def look() -> str:
        """Look."""
        return ""

    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    module.parse_response = lambda *args, **kwargs: {"role": "assistant", "content": "", "tool_calls": [call]}
    turns = len(lengths.contexts)
    most = turns * (lengths.action + lengths.observation)
    model, tokenizer = _forced(policy, lengths.action)
    tokenizer.chat_template = qwen3_chat_template

    class Exact(GRPOTrainer):  # type: ignore[misc]
        """Contexts of the load's lengths, whatever the template adds."""

        def _tokenize_prompts(self, prompts: list[Any]) -> Any:
            return [[letter] * lengths.contexts[0] for _ in prompts], None, {}

        def _get_tool_suffix_ids(self, tool_messages: list[Any]) -> list[int]:
            return [letter] * lengths.observation

    letter = tokenizer.encode("a", add_special_tokens=False)[0]
    trainer = Exact(
        model=model,
        processing_class=tokenizer,
        reward_funcs=_reward,
        tools=[look],
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "a"}]}] * episodes),
        args=GRPOConfig(
            output_dir=folder,
            **_settings(
                num_generations=episodes,
                max_completion_length=most,
                max_tool_calling_iterations=turns - 1,
                per_device_train_batch_size=episodes,
            ),
        ),
    )
    return Peer(trainer)


def sdpo(policy: HuggingFacePolicy, lengths: Lengths, episodes: int, folder: str) -> Peer:
    """``SDPOTrainer`` with one sample per turn."""
    from datasets import Dataset
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    model, tokenizer = _forced(policy, lengths.action)
    samples = [{"prompt": "a" * context, "privileged_context": "b" * lengths.hint} for context in lengths.contexts]
    trainer = SDPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=_reward,
        train_dataset=Dataset.from_list(samples),
        args=SDPOConfig(
            output_dir=folder,
            **_settings(
                num_generations=episodes,
                gradient_accumulation_steps=len(samples) * episodes // 4,
                max_prompt_length=None,
                max_completion_length=lengths.action,
                distillation_mode="full_logits",
                distillation_alpha=0.5,
                distillation_is_clip=None,
                teacher_model_kind="live",
                include_environment_feedback=True,
                use_successful_as_teacher=False,
                reprompt_template="{prompt}{feedback}",
                feedback_template="{feedback_raw}",
                shuffle_dataset=False,
            ),
        ),
    )
    return Peer(trainer)


PEERS: dict[str, Callable[..., Peer]] = {"GRPOTrainer": grpo, "SDPOTrainer": sdpo}
