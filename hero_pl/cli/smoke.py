"""``hero_pl fit --smoke``: the same configuration and code with a tiny model, two steps on a CPU, without a network.

It finds wrong settings, prompts that do not fit, environments that cannot be played and objectives that get no hints,
before a machine is rented. Its numbers mean nothing.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from hero_pl.chat.byte_tokenizer import with_chatml
from hero_pl.chat.template import CHATML, CHATML_TOKENS
from hero_pl.cli.machine import HERE
from hero_pl.cli.run import RUN_LOGGER, run_logger
from hero_pl.errors import HeroError
from hero_pl.policy import gguf
from hero_pl.policy.check.small import small_settings
from hero_pl.policy.loading import resolve
from hero_pl.reflection.base import Reflector
from hero_pl.types import Diagnosis, Reflection, Trajectory

if TYPE_CHECKING:
    import lightning
    from transformers import PreTrainedTokenizerFast

    from hero_pl.policy.base import Copies, Policy

VOCABULARY = 1024
"""Entries of the tokenizer: bytes, and pieces of the text of the pocket retail desk."""
TOOLS = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
"""Part of its chat template: the tools of an environment."""
FAMILIES = (
    (r"qwen3.*a\d+b", "qwen3_moe"),
    (r"qwen3", "qwen3"),
    (r"qwen-?2", "qwen2"),
    (r"gemma-?3", "gemma3_text"),
    (r"mistral|ministral", "mistral"),
    (r"llama|smollm2", "llama"),
    (r"smollm3", "smollm3"),
    (r"phi-?[34]", "phi3"),
    (r"olmo-?2", "olmo2"),
)
"""Patterns of model names, and the ``model_type`` of their architecture."""
OTHERWISE = "qwen3"
STEPS, BATCHES = 2, 4
LIMITS = {"max_turns": 2, "num_envs": 4, "threads": 2, "workers": 1}
"""Settings of ``data.limits`` at most."""
DATA = {"tasks_per_step": 2, "group_size": 4, "max_action_tokens": 16, "eval_episodes": 2, "ahead": 0}
"""Settings of ``data`` at most."""
STAND_IN = "hero_pl/PocketRetail-v0"
"""What is played instead of :data:`OFFICIAL` where their data were not imported."""
OFFICIAL = ("hero_pl/TauBenchRetail-v0", "hero_pl/TauBenchAirline-v0")
ASK_A_MODEL = {"SelfReflector", "PolicyReflector", "ChatReflector"}
REVIEW_TOKENS = 8
"""Most tokens per turn of a review, which random weights cannot write."""
TEXT = "The action was wrong. Do what the task asks for next."


class Smoke:
    """Makes a configuration small, and judges the run.

    Args:
        config: Configuration of ``fit``; changed in place.
    """

    def __init__(self, config: Any) -> None:
        self.replaced: list[str] = []
        """What was replaced, one line each."""
        self._started = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="hero_pl-smoke-", ignore_cleanup_errors=True)
        self._models(config.model)
        self._objective(config.model.objective)
        self._data(config.data)
        self._trainer(config)
        config.model.max_idle_batches = 0  # end() judges a run without a step

    def say(self) -> str:
        """What the run is, and what was replaced."""
        lines = "\n".join(f"  {line}" for line in self.replaced)
        return f"Smoke test of this configuration, without a network. Replaced:\n{lines}"

    def end(self, trainer: lightning.Trainer, module: Any) -> str:
        """The result, and where the run is.

        Raises:
            HeroError: The objective made no step although its turns had diagnoses.
        """
        self._folder.cleanup()
        steps, seconds = trainer.global_step, time.monotonic() - self._started
        if not steps and not module.objective.rewards_alone:
            raise HeroError(
                f"Smoke test failed: {BATCHES} batches and no optimizer step. Look at the metrics: {trainer.log_dir}"
            )
        why = "" if steps else " (the rewards were equal, so there was no gradient)"
        return (
            f"Smoke test passed: {steps} optimizer steps{why}, {module.turns} turns, {seconds:.0f} s. Its numbers mean "
            f"nothing. Run folder: {trainer.log_dir}"
        )

    def _set(self, place: Any, key: str, value: Any, name: str, shown: str | None = None) -> None:
        """Replace a value and note it, unless it is the same."""
        before = place.get(key)
        if before == value:
            return
        place[key] = value
        self.replaced.append(f"{name}: {_short(before)} -> {shown or _short(value)}")

    # -- parts -------------------------------------------------------------------------------------------------

    def _models(self, model: Any) -> None:
        for key, part in _parts("model", model):
            if part.class_path.rpartition(".")[2] == "HuggingFacePolicy":
                self._policy(key, part.init_args)

    def _policy(self, key: str, given: Any) -> None:
        source, small = given.get("pretrained"), tiny(given.get("pretrained"), given.get("config"))
        length = given.get("max_length") or 32768
        small["max_position_embeddings"] = length
        shown = f"{small['model_type']} of {small.get('num_hidden_layers', 2)} layers with random weights"
        if source is None:
            self.replaced.append(f"{key}.config: -> {shown}")
        else:
            self._set(given, "pretrained", None, f"{key}.pretrained", shown)
        given["config"] = small
        tokenizer = Path(self._folder.name) / "tokenizer"
        if not tokenizer.exists():
            small_tokenizer().save_pretrained(tokenizer)
        self._set(given, "tokenizer", str(tokenizer), f"{key}.tokenizer", f"a small one, {VOCABULARY} entries")
        sampler = given.get("sampler")
        if sampler is not None and sampler.class_path.endswith(".ServerSampler"):
            self._set(given, "sampler", None, f"{key}.sampler", "CachedSampler, in this process")

    def _objective(self, objective: Any) -> None:
        given = objective.get("init_args") or {}
        reflector = given.get("reflector")
        kinds = {part.class_path.rpartition(".")[2] for _, part in _parts("", reflector)}
        for _, part in _parts("", reflector):
            settings = part.get("init_args") or {}
            if (settings.get("tokens_per_turn") or 0) > REVIEW_TOKENS:
                where = f"model.objective {_short(part)}.tokens_per_turn"
                self._set(settings, "tokens_per_turn", REVIEW_TOKENS, where)
        if kinds & ASK_A_MODEL:  # random weights write no review; rules are kept, to see whether they fit
            asks = "ChatReflector" in kinds
            what = "instead of requests to the endpoint" if asks else "for turns of which it has none"
            kind = type(given)
            fixed = kind(inner=None if asks else reflector)
            given["reflector"] = kind(class_path=f"{__name__}.{FixedDiagnoses.__name__}", init_args=fixed)
            self.replaced.append(f"model.objective reflector {_short(reflector)}: with fixed diagnoses {what}")
        teacher = given.get("teacher")
        if teacher is not None and (teacher.get("init_args") or {}).get("template") == "auto":
            self._set(teacher.init_args, "force", True, "model.objective teacher.force")
        if given.get("max_resample"):
            self._set(given, "max_resample", 1, "model.objective.max_resample")

    def _data(self, data: Any) -> None:
        arguments = data.get("env_args") or {}
        if isinstance(arguments.get("user"), (Mapping, Namespace)):
            data["env_args"] = {**dict(arguments), "user": "scripted"}
            self.replaced.append("data.env_args.user: a model -> scripted")
        if data.env in OFFICIAL and not _playable(data.env, arguments):
            self._set(data, "env", STAND_IN, "data.env, because its data were not imported")
            data["env_args"], data["splits"] = {}, None
        for key, most in DATA.items():
            if data.get(key):
                self._set(data, key, min(data[key], most), f"data.{key}")
        for key, most in LIMITS.items():
            limits = data.get("limits")
            if limits is not None and limits.get(key):
                self._set(limits, key, min(limits[key], most), f"data.limits.{key}")

    def _trainer(self, config: Any) -> None:
        trainer, kind = config.trainer, type(config.trainer)
        settings = {**HERE, "max_steps": STEPS, "limit_train_batches": BATCHES, "max_epochs": 1, "limit_val_batches": 0}
        for key, value in settings.items():
            self._set(trainer, key, value, f"trainer.{key}")
        if trainer.get("logger") not in (None, True, False):
            logger = run_logger(trainer) or kind(class_path=RUN_LOGGER, init_args=kind())
            if logger is not trainer.logger:  # others may use the network, or write where the real run will
                self._set(trainer, "logger", logger, "trainer.logger", "that of the run folder alone")
            name = str(logger.init_args.get("name") or "run")
            self._set(logger.init_args, "name", f"{name}-smoke", "trainer.logger name")
        self._set(config.export, "folder", None, "export.folder", "the run folder")
        self._set(config.held_out, "episodes", min(config.held_out.episodes, 2), "held_out.episodes")
        config.held_out.at_turns = None
        config.turn_budget.max_turns = 0
        self._set(config, "resume", "never", "resume")
        self._set(config, "wandb", None, "wandb")


class FixedDiagnoses(Reflector):
    """Asks another reflector, and gives a fixed diagnosis for every turn of which that has none.

    Args:
        inner: The other reflector; default: none is asked.
    """

    def __init__(self, inner: Reflector | None = None) -> None:
        self.inner = inner
        self.removes_targets = inner is not None and inner.removes_targets

    def check_policy(self, policy: Policy) -> None:
        """See :meth:`Reflector.check_policy`."""
        if self.inner is not None:
            self.inner.check_policy(policy)

    @property
    def copies(self) -> Copies:
        """Those of the other reflector."""
        return self.inner.copies if self.inner is not None else {}

    def start(self, policy: Policy) -> None:
        """See :meth:`Reflector.start`."""
        if self.inner is not None:
            self.inner.start(policy)

    @property
    def continues(self) -> int:
        """Those of the other reflector."""
        return self.inner.continues if self.inner is not None else 0

    @property
    def lends(self) -> str | None:
        """Those of the other reflector."""
        return self.inner.lends if self.inner is not None else None

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        if self.inner is not None:
            found = self.inner.reflect(trajectories, policy)
        else:
            found = [Reflection((None,) * len(trajectory.turns), "rejected") for trajectory in trajectories]
        usual = Diagnosis(TEXT, "high")
        return [
            Reflection(tuple(one or usual for one in reflection.diagnoses), "repaired", issues=reflection.issues)
            for reflection in found
        ]


def tiny(pretrained: str | None, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings of a small model of the same architecture.

    Args:
        pretrained: Folder, file or hub id; without its files on this machine, its name decides.
        config: Settings of a model from scratch, instead.
    """
    from transformers import AutoConfig

    if config is not None:
        whole = AutoConfig.for_model(**config)
    else:
        place, file = gguf.source(str(resolve(pretrained)))
        try:
            whole = AutoConfig.from_pretrained(place, local_files_only=True, **file).get_text_config()
        except (OSError, ValueError):
            name = str(pretrained).rpartition("/")[2].lower()
            whole = AutoConfig.for_model(
                next((kind for pattern, kind in FAMILIES if re.search(pattern, name)), OTHERWISE)
            )
    own = {*vars(whole), "model_type"}  # the dictionary has settings of every model too
    return small_settings({name: value for name, value in whole.to_dict().items() if name in own})


def small_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer for any text, trained on a text that ships, with a chat template that shows tools."""
    import gymnasium
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    env: Any = gymnasium.make(STAND_IN)
    _, info = env.reset(seed=0)
    env.close()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CHATML_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([info["system_prompt"], json.dumps(info["tools"])], trainer)
    tokenizer = with_chatml(made)
    tokenizer.chat_template = TOOLS + CHATML
    return tokenizer


def _parts(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Components inside of a value, with their keys; outer ones first."""
    if not isinstance(value, (Namespace, dict)):
        return
    if isinstance(value, Namespace) and isinstance(value.get("class_path"), str):
        yield key, value
    for name, inner in list(vars(value).items() if isinstance(value, Namespace) else value.items()):
        yield from _parts(f"{key}.{name}" if name != "init_args" else f"{key}.init_args", inner)


def _playable(env: str, arguments: Mapping[str, Any]) -> bool:
    """Whether an environment can be created here."""
    import gymnasium

    try:
        gymnasium.make(env, **dict(arguments)).close()
    except FileNotFoundError:
        return False
    return True


def _short(value: Any) -> str:
    if hasattr(value, "class_path"):
        return str(value.class_path).rpartition(".")[2]
    return str(value)[:60]
