"""Checks that prompts have the form a model was trained on; one check per function.

Each check returns a :class:`Line` of a table that is shown before training. None of them needs the model.
"""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from hero_pl.chat import traits
from hero_pl.chat.actions import ActionParser
from hero_pl.chat.dialect import Dialect
from hero_pl.chat.history import History
from hero_pl.chat.template import ChatTemplate
from hero_pl.errors import HeroError, PolicyError
from hero_pl.types import HintPosition, Message, Role

SYSTEM = "You keep a shop.\n\nBe kind."
OPENING = "  Hello, do you have\tmugs?\n\n- red\n- blue "
REPLY = "Yes."
ANSWERS = ("  The red one: 3.50\n", '{"stock": 2, "name": "mug \\"A\\""}')
TEXTS = ("a\nb\n\nc  d", " before", "behind ", "1, 2 ; 'tis", "<b>é ü 😀</b>", "\t\n ", "[x](y) {z}")
SPELLINGS = ("cafe\u0301", "\u212b", "\ufb01", "\uff21")
"""Texts that a normalizing tokenizer changes."""


@dataclass(frozen=True, slots=True)
class Line:
    """The result of one check."""

    name: str
    ok: bool
    detail: str
    cure: str = ""
    """What to do if the check failed, or if the detail matters."""


def probe_template(template: ChatTemplate, parser: ActionParser) -> Iterator[Line]:
    """Run all checks, in the order of the table."""
    yield bos_once(template)
    yield first_prompt_is_the_templates(template, parser)
    yield later_prompts_are_the_templates(template, parser)
    yield hostile_text(template)
    yield prompts_only_grow(template)
    yield tools_are_shown(template, parser)
    yield calls_are_read(template, parser)
    for position in get_args(HintPosition):
        yield hint(template, position)
    yield ends(template)
    yield controls(template)
    yield round_trip(template)
    yield spelling(template)
    yield reasoning(template)
    yield date(template)


def tell(template: ChatTemplate, parser: ActionParser) -> None:
    """Warn about results that change prompts without being errors, and about calls that would be sent as messages."""
    calls = calls_are_read(template, parser)
    for line in (reasoning(template), date(template), *([] if calls.ok else [calls])):
        if line.cure:
            warnings.warn(f"{template.tokenizer.name_or_path}: {line.detail} {line.cure}", stacklevel=2)


def bos_once(template: ChatTemplate) -> Line:
    """The beginning-of-text token must not be doubled, and not be missing where the tokenizer writes it."""
    bos = template.tokenizer.bos_token_id
    ids = template.first_prompt("", "a")
    count = next((i for i, one in enumerate(ids) if one != bos), len(ids)) if bos is not None else 0
    wanted = bos is not None and template.tokenizer.encode("a")[:1] == [bos]
    if count > 1:
        return Line(
            "BOS once", False, f"A prompt begins with BOS {count} times.", "Take one of them out of the template."
        )
    if wanted and not count:
        detail = "The tokenizer begins texts with BOS, the chat template does not."
        return Line("BOS once", False, detail, "Begin the template with {{ bos_token }}.")
    if count and not template.bos_begins_texts:
        return Line("BOS once", True, "it begins messages, not the text")
    return Line("BOS once", True, "once" if count else "none, as the tokenizer has it")


def first_prompt_is_the_templates(template: ChatTemplate, parser: ActionParser) -> Line:
    """System prompt, tools and first message give the same ids as ``apply_chat_template``."""
    system, tools = _described(template, parser)
    pairs = []
    for text, schemas in (("", ()), (system, ()), (system, tools)):
        opening = template.opening(text, OPENING)
        pairs.append((template.first_prompt(text, OPENING, tools=schemas), _wanted(template, opening, schemas)))
    return _compared("first prompt", template, pairs)


def later_prompts_are_the_templates(template: ChatTemplate, parser: ActionParser) -> Line:
    """Two more turns, one with a tool result, give the same ids as ``apply_chat_template``."""
    system, tools = _described(template, parser)
    history = History(template, system, OPENING, tools=tools)
    messages = template.opening(system, OPENING)
    pairs = []
    steps: tuple[tuple[str, Role], ...] = ((ANSWERS[0], "user"), (ANSWERS[1], "tool"))
    for answer, role in steps:
        messages += [Message("assistant", REPLY), template.observation_message(answer, role)]
        try:
            pairs.append((history.append(_reply(template), answer, role), _wanted(template, messages, tools)))
        except PolicyError as error:
            return Line("later prompts", False, str(error))
    return _compared("later prompts", template, pairs)


def hostile_text(template: ChatTemplate) -> Line:
    """Every control token, spelled in a message, is shown letter by letter."""
    controls = template.encoder.control_ids - {template.tokenizer.unk_token_id}
    counts = []
    for text in ("x", "".join(f"x {spelled} " for spelled in template.encoder.control)):
        history = History(template, text, text)
        ids = history.append(_reply(template), text, "tool")
        counts.append([sum(i == control for i in ids) for control in controls])
    same = counts[0] == counts[1]
    return Line("hostile text", same, "speaks for nobody" if same else "text from outside becomes a control token")


def hint(template: ChatTemplate, position: HintPosition) -> Line:
    """Check that the hint is in the context once, at this position, and that nothing else changes."""
    name = f"hint {position}"
    words = "HEROHINTTNIH"
    try:
        for prompt in _contexts(template):
            ids = template.insert_hint(prompt, words, position, _reply(template))
            hinted = template.encoder.spell(ids)
            before, _, behind = hinted.partition(words)
            whole = template.encoder.spell(prompt)
            left, right = _common(before, whole), _common(behind[::-1], whole[::-1])
            if ids[0] != prompt[0]:
                return Line(name, False, "the context with a hint begins in another way", "Set another hint_position.")
            if hinted.count(words) != 1 or left + right < len(whole):
                lost = whole[left : len(whole) - right]
                return Line(name, False, f"the context with a hint lacks {lost[:40]!r}", "Set another hint_position.")
    except HeroError as error:
        used = position == template.hint_position
        return Line(name, not used, f"not possible: {error}", "Set another hint_position." if used else "")
    return Line(name, True, "in use" if position == template.hint_position else "possible")


def prompts_only_grow(template: ChatTemplate) -> Line:
    """Whether each prompt begins with the previous prompt and the sampled ids."""
    if not template.rewrites_history:
        return Line("prefix property", True, "every prompt begins with the previous one")
    why = "moves the system prompt or the tools" if template.moves_prompt else "drops earlier reasoning"
    detail = f"The template {why}: prompts are rendered again, and turns share no prefix."
    return Line("prefix property", True, detail, "More tokens per episode (rollout/rewritten_tokens).")


def tools_are_shown(template: ChatTemplate, parser: ActionParser) -> Line:
    """Names and descriptions of tools are in the prompt."""
    system, tools = parser.describe("s", [traits.TOOL])
    if not tools:
        shown = "herotool" in system
        return Line("tools", True, "described in the system prompt" if shown else "not shown by this parser")
    try:
        traits.check_tools(template.renderer, template.opening(system, "a"), tools)
    except PolicyError as error:
        return Line("tools", False, str(error), "parser: ReAct")
    return Line("tools", True, "shown by the template")


def calls_are_read(template: ChatTemplate, parser: ActionParser) -> Line:
    """The parser reads the call that the template itself writes; a call in an unknown form becomes a message."""
    tools = parser.describe("s", [traits.TOOL])[1]
    if not tools:
        return Line("tool calls", True, "in the form of the parser, whatever the template writes")
    written = traits.written_call(template.renderer, tools)
    stop = next((i for i, one in enumerate(written) if one in template.end_ids), len(written))
    text = template.encoder.decode(written[:stop])
    if not text.strip():
        detail = "The template writes no calls, so the form of the model's calls is not known."
        return Line("tool calls", True, detail, "Read some replies: a call that the parser does not know is a message.")
    parsed = parser.parse(text, tools=tools)  # without reasoning, even where the prompt opens it
    if parsed.malformed or parsed.action != json.dumps(traits.CALL):
        how = f"refuses ({parsed.malformed})" if parsed.malformed else "takes for a message"
        detail = f"The template writes calls as {text.strip()[:120]!r}, which {type(parser).__name__} {how}."
        return Line("tool calls", False, detail, "Set parser: ReAct, or write an ActionParser for this form.")
    label = Dialect(template, parser, 0).reply_ids(parser.write(traits.CALL))
    if label != written[: stop + 1]:
        if parser.write(traits.CALL) == traits.without_call_id(text.strip()):
            return Line("tool calls", True, "read, and labels have the same form, without the id of a call")
        detail = f"read; labels and demonstrations have another form: {parser.write(traits.CALL)!r}"
        return Line("tool calls", True, detail, "With parser: ReAct replies and labels have one form.")
    return Line("tool calls", True, "read, and labels have the same ids")


def ends(template: ChatTemplate) -> Line:
    """The tokens that end a reply."""
    names = [str(template.tokenizer.convert_ids_to_tokens(i)) for i in sorted(template.end_ids)]
    return Line("end tokens", bool(names), ", ".join(names))


def controls(template: ChatTemplate) -> Line:
    """Outside text never becomes a control token."""
    encoder = template.encoder
    plain = len(set(template.tokenizer.added_tokens_decoder) - encoder.control_ids)
    spelled = "".join(encoder.control)
    leaked = encoder.control_ids & set(encoder.encode_untrusted(spelled)) - {template.tokenizer.unk_token_id}
    detail = f"{len(encoder.control_ids)} control tokens, {plain} added tokens are text"
    return Line("control tokens", not leaked, detail if not leaked else f"outside text can become {leaked}")


def round_trip(template: ChatTemplate) -> Line:
    """Encoding and decoding returns the same text."""
    encoder = template.encoder
    changed = [text for text in TEXTS if encoder.spell(encoder.encode_untrusted(text)) != text]
    if changed:
        return Line("round trip", False, f"{changed[0]!r} is changed", "Use the fast tokenizer of the model.")
    return Line("round trip", True, "exact")


def spelling(template: ChatTemplate) -> Line:
    """Whether the tokenizer normalizes text: then the model sees and writes some texts with other characters."""
    encoder = template.encoder
    changed = [text for text in SPELLINGS if encoder.spell(encoder.encode_untrusted(text)) != text]
    if not changed:
        return Line("spelling", True, "unchanged")
    detail = f"The tokenizer normalizes {', '.join(map(ascii, changed))}: the model sees and writes other characters."
    return Line("spelling", True, detail, "Compare names in one normal form (NFC).")


def reasoning(template: ChatTemplate) -> Line:
    """How the template handles reasoning, and whether the setting ``reasoning`` fits."""
    _, closed = template.reasoning_pair
    if closed in template.generation_text:
        return Line("reasoning", True, "switched off by the generation prompt")
    opens = "opened by the generation prompt; " if template.opens_reasoning else ""
    if template.drops_reasoning and template.reasoning == "keep":
        detail = f"{opens}the chat template drops the reasoning of earlier turns, but reasoning: keep keeps it."
        return Line("reasoning", True, detail, "Set reasoning: strip for the prompts that the model was trained on.")
    dropped = "dropped from earlier turns" if template.drops_reasoning else "kept"
    return Line("reasoning", True, f"{opens}{dropped}")


def date(template: ChatTemplate) -> Line:
    """Whether the template writes a date; it is always the same date."""
    day = written_date(template)
    if day is None:
        return Line("date", True, "prompts do not depend on the clock")
    cure = "" if template.renderer.day_was_given else "Set template_args: {today: YYYY-MM-DD} for another date."
    return Line("date", True, f"The chat template writes the date: it always gets {day}.", cure)


def written_date(template: ChatTemplate) -> datetime.date | None:
    """The date that the template writes into prompts; ``None`` if it writes none."""
    template.renderer.asked_the_date = False
    template.first_prompt("s", "a")
    return template.renderer.today if template.renderer.asked_the_date else None


def _described(template: ChatTemplate, parser: ActionParser) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """System prompt and tools from the parser; no tools if the template cannot show them."""
    system, tools = parser.describe(SYSTEM, [traits.TOOL])
    return system, tools if tools_are_shown(template, parser).ok else ()


def _contexts(template: ChatTemplate) -> list[tuple[int, ...]]:
    """A first decision context, and a later one."""
    history = History(template, SYSTEM, OPENING)
    return [history.prompt_ids, history.append(_reply(template), ANSWERS[0])]


def _common(one: str, other: str) -> int:
    """Letters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _reply(template: ChatTemplate) -> tuple[int, ...]:
    """A reply as the template writes it, up to its end-of-turn token."""
    user, said = Message("user", "a"), Message("assistant", REPLY)
    start = len(template.renderer.plain([user], generate=True))
    whole = template.renderer.plain([user, said, user])
    text = whole[start : whole.rfind(REPLY) + len(REPLY)]
    return template.encoder.encode_template(text, after=template.first_prompt("", "a")[-1])


def _wanted(template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Any] = ()) -> tuple[int, ...]:
    """The ids that transformers returns for a conversation."""
    text = template.renderer.plain(messages, tools, generate=True)
    if not template.renderer.asked_the_date:
        text = str(
            template.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tools=list(tools) or None,
                chat_template=template.renderer.source,
                add_generation_prompt=True,
                tokenize=False,
                **template.renderer.args,
            )
        )
    return tuple(template.tokenizer.encode(text, add_special_tokens=False))


def _compared(name: str, template: ChatTemplate, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Line:
    for got, wanted in pairs:
        if got != wanted:
            at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), len(wanted))
            shown, right = (repr(template.encoder.spell(ids[at : at + 8])) for ids in (got, wanted))
            detail = f"differs from apply_chat_template at token {at}: {shown} instead of {right}"
            return Line(name, False, detail, "Simplify this part of the chat template.")
    return Line(name, True, "equal to apply_chat_template")
