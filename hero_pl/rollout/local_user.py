"""A user simulator whose model runs in this process: no server, no key, no network.

The argument ``user`` of an environment is plain data, so that it can be set in YAML. ``{"pretrained": FOLDER, ...}`` is
replaced here by ``{"complete": MODEL, ...}``: the environment accepts any function from messages to text as a user (see
``hero_envs.tau_bench.users.chat``), and needs no tensors. All environments of a process share one model.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from hero_pl.chat.reasoning import inside_reasoning, without_thinking
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.types import FinishReason, Message, Role

CUT = " ..."
"""Appended to a reply that ``max_tokens`` cut, so that records show the cut."""

Dtype = Literal["float32", "bfloat16", "float16"]
STRATEGIES = ("llm", "react", "verify", "reflection")
_PLAYING = ("strategy", "attempts", "name")
"""Keys that are passed to the environment: how the user is simulated, not with which model."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """A chat model and its sampling.

    Args:
        pretrained: Folder or hub id of an instruct checkpoint.
        dtype: Data type of the weights.
        attention: Attention implementation of transformers.
        device: ``auto`` takes an accelerator if there is one.
        temperature: Sampling temperature; 0 is greedy.
        max_tokens: Maximum length of a reply in tokens.
        max_length: Context length in tokens; default: from the model's configuration.
        batch_size: Maximum number of replies in one batch; more than one reply needs ``limits.threads``.
    """

    pretrained: str
    dtype: Dtype = "float32"
    attention: str = "sdpa"
    device: str = "auto"
    temperature: float = 0.0
    max_tokens: int = 256
    max_length: int | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not isinstance(self.pretrained, str) or not self.pretrained:
            raise ConfigError(f"user.pretrained={self.pretrained!r}: expected a folder or a hub id.")
        if self.dtype not in get_args(Dtype):
            raise ConfigError(f"user.dtype={self.dtype!r}: expected one of {', '.join(get_args(Dtype))}.")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ConfigError(f"user.batch_size={self.batch_size!r}: expected a whole number, at least 1.")


def read_user(user: Any) -> tuple[ChatSettings, dict[str, Any]] | None:
    """Model settings and other keys of a user that runs in this process; ``None`` for any other user.

    Raises:
        ConfigError: A key is unknown or a value is out of range; raised before a model is loaded.
    """
    if not isinstance(user, Mapping) or "pretrained" not in user:
        return None
    known = [field.name for field in dataclasses.fields(ChatSettings)]
    unknown = sorted(set(user) - {*known, *_PLAYING})
    if unknown:
        raise ConfigError(f"user: unknown {', '.join(unknown)}; a local user takes {', '.join([*known, *_PLAYING])}.")
    if user.get("strategy", "llm") not in STRATEGIES:
        raise ConfigError(f"user.strategy={user['strategy']!r}: expected one of {', '.join(STRATEGIES)}.")
    settings = ChatSettings(**{key: value for key, value in user.items() if key in known})
    try:
        Sampling(settings.temperature, settings.max_tokens)
    except (ConfigError, TypeError) as error:
        raise ConfigError(
            f"user: temperature={settings.temperature!r}, max_tokens={settings.max_tokens!r} ({error})"
        ) from error
    name = Path(settings.pretrained).name if Path(settings.pretrained).is_dir() else settings.pretrained
    return settings, {"name": name, **{key: user[key] for key in _PLAYING if key in user}}


def with_model(user: Any) -> Any:
    """The argument ``user`` of an environment, with the model instead of its name; other users are unchanged.

    Raises:
        ConfigError: See :func:`read_user`.
    """
    parsed = read_user(user)
    return user if parsed is None else {"complete": _shared(parsed[0]), **parsed[1]}


@lru_cache(maxsize=4)
def _shared(settings: ChatSettings) -> LocalChat:
    return LocalChat(settings)


class LocalChat:
    """A chat model as a function; concurrent requests of several threads are answered in one batch.

    A reply depends on its conversation and its seed. In a batch with others, rounding can differ in the last digits.
    The weights are loaded at the first request.

    Args:
        settings: Model and sampling.
    """

    def __init__(self, settings: ChatSettings) -> None:
        self.policy = HuggingFacePolicy(
            settings.pretrained, dtype=settings.dtype, attention=settings.attention, max_length=settings.max_length
        )
        self._device = settings.device
        self._sampling = Sampling(settings.temperature, settings.max_tokens)
        self._batch_size = settings.batch_size
        self._waiting: list[_Request] = []
        self._queue, self._model = threading.Lock(), threading.Lock()

    def __call__(self, messages: Sequence[Mapping[str, str]], seed: int = 0) -> str:
        """The model's reply without its reasoning block; empty if the reasoning did not end.

        Args:
            messages: ``{"role": ..., "content": ...}``; contents are treated as untrusted text.
            seed: Sampling seed.

        Raises:
            ConfigError: The model cannot be loaded.
            PolicyError: The model failed, or the conversation is too long for a reply.
        """
        if self.policy.network is None:  # otherwise requests are collected while the model runs
            with self._model:
                self._load()
        chat = [Message(cast(Role, message["role"]), message["content"]) for message in messages]
        request = _Request(self.policy.template.conversation(chat), seed)
        room = self.policy.max_length - self._sampling.max_action_tokens
        if len(request.prompt_ids) > room:
            raise PolicyError(
                f"The user's conversation has {len(request.prompt_ids)} tokens; its model has room for {room} before a "
                f"reply of {self._sampling.max_action_tokens}. Raise user.max_length, or lower limits.max_turns."
            )
        with self._queue:
            self._waiting.append(request)
        while request.text is None:
            with self._model:  # the first thread here answers all requests that wait
                if request.text is None:
                    self._answer_waiting()
        if request.error is not None:
            raise PolicyError(f"The user's model failed: {request.error!r}") from request.error
        return request.text

    def _load(self) -> None:
        if self.policy.network is not None:
            return
        import torch

        try:
            self.policy.load()
        except PolicyError as error:
            raise ConfigError(f"user: {error}") from error
        self.policy.requires_grad_(False).eval()
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self.policy.to(automatic if self._device == "auto" else self._device)

    def _answer_waiting(self) -> None:
        with self._queue:
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
        try:
            with self.policy.sampling():
                seeds = [request.seed for request in batch]
                session = self.policy.sampler.open(self.policy, self._sampling, seeds)
                actions = session.act(range(len(batch)), [request.prompt_ids for request in batch])
            for request, action in zip(batch, actions, strict=True):
                if action.finish_reason is FinishReason.ERROR:
                    raise PolicyError(action.error)
                template = self.policy.template
                cut = action.finish_reason is FinishReason.LENGTH
                request.text = _spoken(template.encoder.decode(action.ids), cut, template.opens_reasoning)
        except Exception as error:  # passed to each thread that waits for this batch, and raised there
            for request in batch:
                request.text, request.error = "", error


@dataclass(slots=True)
class _Request:
    """One request for a reply."""

    prompt_ids: tuple[int, ...]
    seed: int
    text: str | None = None
    error: Exception | None = None


def _spoken(text: str, cut: bool, opened: bool = False) -> str:
    """The reply without its reasoning; empty if the reasoning did not end.

    Example:
        >>> _spoken("<think>They want my zip.</think> It is 19122.", False), _spoken("<think>Hm", True)
        ('It is 19122.', '')
        >>> _spoken("I would like to ret", True)
        'I would like to ret ...'
    """
    if inside_reasoning(text, opened):
        return ""
    reply = without_thinking(text).strip()
    return reply + CUT if cut and reply else reply
