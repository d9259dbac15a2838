"""The parser of configurations: the project's YAML loader, and errors that suggest the closest component or key."""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from jsonargparse._loaders_dumpers import get_yaml_default_loader
from lightning.pytorch.cli import LightningArgumentParser

from hero_pl.cli.components import arguments, nearest
from hero_pl.cli.configs import NUMBERS, dump_text, load_text, read_config

MODE = "hero_pl"
"""Name of the value loader in jsonargparse."""

MOST_KEYS = 8
"""Settings of a group that a message lists."""

NAMED = r"(?:class_path'?:? '|dot import path string: |Given value: (?=[\w.]+$))([A-Za-z_][\w.]*)"
"""Pattern of a component name as given by the user, in a message of the parser."""

PLAIN = (
    ("<class 'NoneType'>", "null"),
    (r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1"),
    (r"an? (typing\.Literal)", r"\1"),
    (r"typing\.Literal\[([^]]*)\]", r"one of \1"),
    ("a (int|str|float|bool|list|dict|null)\\b", r"\1"),
)
"""Names of types in messages of the parser, and how they are written in configurations."""


class HeroParser(LightningArgumentParser):
    """Prints short errors with the closest known name for a misspelled component or key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        jsonargparse.set_loader(MODE, load_text, exceptions=(yaml.YAMLError,))
        _without_sixties(get_yaml_default_loader())  # type: ignore[no-untyped-call]
        super().__init__(*args, **{"parser_mode": MODE, **kwargs})

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an option; options for configuration files use :class:`ConfigFile`."""
        if kwargs.get("action") is ActionConfigFile:
            names = "A YAML file, or a name from hero_pl configs; can be repeated, later ones override earlier ones."
            kwargs = {**kwargs, "action": ConfigFile, "help": names}
        return super().add_argument(*args, **kwargs)

    def print_usage(self, file: Any = None) -> None:
        """Print one line instead of all options, so that the error below it is visible."""
        self._print_message(f"usage: {self.prog.replace(' [options]', '')} --config FILE [options]\n", file)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the message and a suggestion for a wrong name."""
        message = message.replace("<unicode string>", "the command line")  # files were parsed before
        for pattern, plain in PLAIN:
            message = re.sub(pattern, plain, message)
        suggestion = self._suggestion(message)
        if suggestion.strip() not in message:  # an error inside a component passes here once per level
            message += suggestion
        super().error(message, ex)

    def _suggestion(self, message: str) -> str:
        """Suggest the closest name for a misspelled argument of a component, key, or component."""
        argument = re.search(r"given class_path '([\w.]+)':\s+Option '(\w+)\S*' is not accepted", message)
        if argument is not None:
            near = difflib.get_close_matches(argument[2], arguments(argument[1]), n=1)
            return f"\nDid you mean {near[0]!r}?" if near else ""
        group = re.search(r'Parser key "([\w.]+)":\s+Unable to load config', message)
        if group is not None:
            keys = sorted(key for key in self._keys() if key.startswith(f"{group[1]}."))
            shown = ", ".join(keys[:MOST_KEYS]) + ", ..." * (len(keys) > MOST_KEYS)
            return f"\n{group[1]} is a group of settings: set one of {shown}" if keys else ""
        option = re.search(r"unrecognized arguments: --([\w.]+)", message)
        key = option or re.search(r"((?<=Group ')[\w.]+)?[' ]*does not accept option '([\w.]+)'", message)
        if key is not None:
            near = difflib.get_close_matches(".".join(part for part in key.groups() if part), self._keys(), n=1)
            return f"\nDid you mean '{'--' if option else ''}{near[0]}'?" if near else ""
        for word in dict.fromkeys(re.findall(NAMED, message, re.MULTILINE)):
            component = nearest(word)
            if component is not None:
                return f"\nThere is no component {word!r}. Did you mean {component!r}? List them: hero_pl components"
        return ""

    def _keys(self) -> set[str]:
        """All options of this parser and of its subcommands."""
        names = {action.dest for action in self._actions}
        for action in self._actions:
            for parser in (getattr(action, "choices", None) or {}).values() if action.dest == "subcommand" else ():
                names |= {option.dest for option in parser._actions}
        return names


def _without_sixties(loader: Any) -> None:
    """In the parser's own loader, with which it reads numbers that were written as text: 1:30 is not 90."""
    numbers = [(tag, re.compile(f"^(?:{pattern})$")) for tag, pattern in NUMBERS.items()]
    for first, known in loader.yaml_implicit_resolvers.items():
        others = [one for one in known if one[0] not in NUMBERS]
        loader.yaml_implicit_resolvers[first] = others + (numbers if first and first in "-+.0123456789" else [])


class ConfigFile(ActionConfigFile):
    """``--config``: a file, ``hero_pl:NAME``, or YAML itself."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file with :func:`~hero_pl.cli.configs.read_config`, and pass on its values.

        Raises:
            ConfigError: The file does not exist, or is not a valid configuration.
        """
        text = str(values)
        if not ("\n" in text or ": " in text or text.lstrip().startswith("{")):
            options = {action.dest for action in parser._actions}
            # other commands ignore the options in a run's config.yaml that only `fit` has
            read = {
                k: v for k, v in read_config(text).items() if k in options or k not in ("ckpt_path", "weights_only")
            }
            text = dump_text(read)
        super().__call__(parser, cfg, text, option_string)  # type: ignore[no-untyped-call]
