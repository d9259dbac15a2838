"""Reviews sampled under a grammar: only tokens that continue a valid answer can be sampled.

The format is a JSON schema per window and set of tools, or a grammar for plain lines; xgrammar (extra ``constrained``)
computes the allowed next ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hero_pl.chat.call_form import write_json
from hero_pl.errors import ConfigError
from hero_pl.policy.sampling import Constraint
from hero_pl.reflection.context import tool_name
from hero_pl.reflection.tool_schema import bounded, text

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy
    from hero_pl.types import Trajectory

_BRACKETS = re.compile(r"\s*(\w+)\[.*\]\s*\Z", re.DOTALL)


def review_schema(trajectory: Trajectory, window: tuple[int, int], max_chars: int) -> dict[str, Any]:
    """JSON schema of the answer for the turns of a window: every turn, no other key, texts of limited length.

    Args:
        trajectory: Trajectory, for its tools; without tools a corrected action has the form ``name[...]``, with a name
            that the episode has used.
        window: First and last turn.
        max_chars: Maximum length of every text in the answer.

    Raises:
        ConfigError: The parameters of a tool contain themselves, or refer to what they do not contain.
    """
    functions = [tool.get("function", tool) for tool in trajectory.tools]
    calls = [
        _object(
            name={"const": function["name"]},
            arguments=bounded(function["name"], {"type": "object", **(function.get("parameters") or {})}, max_chars),
        )
        for function in functions
    ]
    if not calls and (names := text_actions(trajectory)):
        inside = f'[^\\x00-\\x1f\\x7f"\\\\\\]]{{1,{max_chars}}}'
        calls = [{"type": "string", "pattern": f"^({'|'.join(names)})\\[{inside}\\]$"}]
    turn = _object(
        diagnosis=text(max_chars),
        confidence={"enum": ["low", "medium", "high"]},
        next_action_target={"anyOf": [{"type": "null"}, *calls]},
    )
    return _object(**{f"turn{number}": turn for number in range(window[0], window[1] + 1)})


def review_lines(trajectory: Trajectory, window: tuple[int, int], max_chars: int) -> str:
    """Grammar (EBNF) of the answer in plain lines: one line per turn of a window, no text without end.

    Args:
        trajectory: If its actions are written ``name[...]``, a corrected action has the name of a tool or, without
            tools, a name that the episode has used.
        window: First and last turn.
        max_chars: Largest length of each text in the answer, in characters.
    """
    lines = [f'"turn{number}: " text do?' for number in range(window[0], window[1] + 1)]
    named = " | ".join(map(write_json, text_actions(trajectory)))
    rules = {
        "root": ' "\\n" '.join(lines),
        "do": '" / do: " action',
        "action": f'({named}) "[" [^\\x00-\\x1f\\x7f\\]]{{1,{max_chars}}} "]"' if named else "text",
        "text": f"[^\\x00-\\x20\\x7f/;|] [^\\x00-\\x1f\\x7f/;|]{{0,{max_chars - 1}}}",
    }
    return "\n".join(f"{name} ::= {rule}" for name, rule in rules.items())


def text_actions(trajectory: Trajectory) -> list[str]:
    """Names for actions written as ``name[...]``: those of the tools, else those used; empty if none was written so."""
    names = [one[1] for turn in trajectory.turns if (one := _BRACKETS.match(turn.action))]
    tools = [name for name in map(tool_name, trajectory.tools) if name]
    return list(dict.fromkeys(tools or names)) if names else []


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def grammar_package() -> Any:
    """The package that compiles grammars.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import xgrammar
    except ImportError as error:
        raise ConfigError(
            "constrained: true needs xgrammar. Install it with: pip install 'hero_pl[constrained]'"
        ) from error
    return xgrammar


class ReviewGrammar:
    """Compiles the format of reviews for one policy, once per schema.

    Args:
        policy: The loaded policy, for its tokenizer and output size.

    Raises:
        ConfigError: xgrammar is not installed, or does not support the tokenizer.
    """

    def __init__(self, policy: Policy) -> None:
        xgrammar = self._xgrammar = grammar_package()
        template = policy.template
        vocabulary = max(len(template.tokenizer), _outputs(policy))
        try:
            info = xgrammar.TokenizerInfo.from_huggingface(
                template.tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(template.end_ids)
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(f"constrained: true: xgrammar does not support this tokenizer: {error}") from error
        self._compiler: Any = xgrammar.GrammarCompiler(info, max_threads=1)
        self.vocabulary = vocabulary

    def constraint(self, form: Mapping[str, Any] | str) -> Constraint:
        """A new constraint for one answer.

        Args:
            form: A JSON schema, or a grammar.

        Raises:
            ConfigError: xgrammar does not support it: it has the names of tools, and a schema also their parameters.
        """
        try:  # both are cached by xgrammar
            if isinstance(form, str):
                compiled = self._compiler.compile_grammar(form)
            else:
                compiled = self._compiler.compile_json_schema(json.dumps(form), any_whitespace=False)
        except RuntimeError as error:
            what = "name" if isinstance(form, str) else "parameters"
            raise ConfigError(
                f"constrained: true: xgrammar does not support the {what} of a tool: {error}. Set the reflector's "
                "constrained: false with on_invalid: retry, or simplify them."
            ) from error
        return _Follows(self._xgrammar, compiled, self.vocabulary)


class _Follows(Constraint):
    """Constraint of one answer."""

    def __init__(self, xgrammar: Any, compiled: Any, vocabulary: int) -> None:
        self._xgrammar = xgrammar
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = xgrammar.allocate_token_bitmask(1, vocabulary)

    def allow(self, logits: Tensor) -> Tensor:
        """See :meth:`Constraint.allow`."""
        self._matcher.fill_next_token_bitmask(self._mask)
        allowed = logits.detach().clone()[None]
        self._xgrammar.apply_token_bitmask_inplace(allowed, self._mask.to(logits.device))
        return allowed[0]

    def accept(self, token: int) -> None:
        """See :meth:`Constraint.accept`."""
        if not self._matcher.accept_token(token):
            raise AssertionError(f"token {token} was drawn although the grammar forbids it")


def _outputs(policy: Policy) -> int:
    """Size of the policy's output, which may be larger than that of its tokenizer."""
    config = getattr(getattr(policy, "model", None), "config", None)
    return int(config.get_text_config().vocab_size) if config is not None else 0
