"""``hero_pl check-model``: do prompts, sampling and scoring of a model agree? One table, before training."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.chat import traits
from hero_pl.chat.actions import ActionParser, ReAct, ToolCall
from hero_pl.chat.probes import Line, probe_template
from hero_pl.chat.template import ChatTemplate
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.check.properties import OFF, Trial
from hero_pl.policy.check.settle import smallest
from hero_pl.policy.check.weights import weights_lines
from hero_pl.policy.huggingface import HuggingFacePolicy

if TYPE_CHECKING:
    from rich.table import Table


def run(model: str | None, words: Sequence[str], as_json: bool = False) -> bool:
    """Print what was found; returns whether every line is right.

    Args:
        model: Folder, hub id, or packaged checkpoint; ``None``: the one of the configuration.
        words: Arguments of ``fit``: ``--config FILE`` and options over it; without any, a policy with default settings.
        as_json: One JSON object instead of a table.

    Raises:
        ConfigError: There is no model to check.
    """
    from rich.console import Console

    start = time.monotonic()
    policy = _policy(model, words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lines say it
        lines = list(check(policy, with_parser=bool(words)))
    ok, seconds = all(line.ok for line in lines), time.monotonic() - start
    name = policy.pretrained or str((policy.config or {}).get("model_type"))
    if as_json:
        rows = [{"name": x.name, "ok": x.ok, "detail": x.detail, "cure": x.cure} for x in lines]
        print(json.dumps({"model": name, "ok": ok, "seconds": round(seconds, 1), "lines": rows}, indent=2))
        return ok
    Console().print(_table(name, lines))
    wrong = sum(not line.ok for line in lines)
    print(f"{len(lines)} properties in {seconds:.0f} s: {f'{wrong} wrong' if wrong else 'all right'}")
    return ok


def check(policy: HuggingFacePolicy, with_parser: bool = True) -> Iterator[Line]:
    """Load a policy and try everything; what cannot be loaded is a line, too.

    Args:
        policy: Fresh.
        with_parser: Whether its parser was chosen; if not, one is taken that shows tools.
    """
    refused: PolicyError | None = None
    try:
        policy.load()
    except PolicyError as error:
        refused = error
    if hasattr(policy, "template"):
        yield from _prompts(policy.template, policy.parser if with_parser else None)
    if policy.findings is not None:
        yield Line("dropout", True, _dropout(policy))
        yield from policy.findings.lines
    if refused is not None:
        if policy.findings is None or all(line.ok for line in policy.findings.lines):
            yield Line("load", False, str(refused), "See there.")
        return
    yield from _further(policy)
    yield from weights_lines(policy)


def _prompts(template: ChatTemplate, parser: ActionParser | None) -> Iterator[Line]:
    """Lines of the chat template; without a parser, one is taken that shows tools."""
    hidden = False
    if parser is None:
        parser = ToolCall().fitted(template)
        try:
            traits.check_tools(template.renderer, template.opening("s", "a"), [traits.TOOL])
        except PolicyError:
            parser, hidden = ReAct(), True
    for line in probe_template(template, parser):
        if line.name == "tools" and hidden:
            line = Line("tools", True, "not shown by the chat template", "Set parser: ReAct; ToolCall is refused.")
        yield line


def _dropout(policy: HuggingFacePolicy) -> str:
    off = [f"{name} {value:g}" for name, value in policy.dropout.items()]
    return f"switched off: {', '.join(off)}" if off else "none in the configuration"


def _further(policy: HuggingFacePolicy) -> Iterator[Line]:
    """Properties of the architecture that loading does not ask for."""
    network: Any = policy.need_network("the check")
    base = network.model.get_base_model() if network.has_adapter else network.model
    small, _ = smallest(base.config, policy.attention)
    if small is None:
        return
    trial = Trial(small)
    trial.sampler()
    try:
        import peft  # noqa: F401
    except ImportError:
        yield Line("adapter off", True, "not tried: the package peft is missing", "pip install 'hero_pl[lora]'")
    else:
        yield trial.adapter_off()
        small, _ = smallest(base.config, policy.attention)
        trial = Trial(small)
        trial.sampler()
    yield trial.frozen_copy()


def _policy(model: str | None, words: Sequence[str]) -> HuggingFacePolicy:
    """The policy of a configuration, or one of a name."""
    if not words:
        if model is None:
            raise ConfigError("check-model needs a model: a folder, a hub id, hero_pl:NAME, or --config FILE.")
        return HuggingFacePolicy(pretrained=model)
    from hero_pl.cli.lightning import instantiate

    named = [] if model is None else [f"--model.policy.init_args.pretrained={model}"]
    policy = instantiate([*words, *named]).model.policy
    if not isinstance(policy, HuggingFacePolicy):
        raise ConfigError(
            f"{type(policy).__name__} has no model to check. Take a configuration with a HuggingFacePolicy."
        )
    return policy


def _table(name: str, lines: Sequence[Line]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    caption = f"gap: largest difference {OFF}, in logits or nats"
    title = Text(name, "table.title")
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("property", no_wrap=True)
    for head in ("", "what was found", "what to do"):
        table.add_column(head, overflow="fold")
    for line in lines:
        mark = Text("ok", "green") if line.ok else Text("WRONG", "bold red")
        table.add_row(Text(line.name), mark, Text(line.detail), Text(line.cure))
    return table
