"""Create environments; with ``check_env`` the only module of hero_pl that imports Gymnasium."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import gymnasium

from hero_envs.chat_endpoint import EndpointDown, RequestFailed, SpendCapReached
from hero_envs.tau_bench.users.base import User
from hero_pl.errors import ConfigError, EndpointError, EnvError, SpendCapError
from hero_pl.rollout.answers import MAX_CHARS, Answer, read_start, read_step

Env = gymnasium.Env[str, str]
MAX_ERROR = 2000
"""Maximum number of characters of an error's text in records."""
MAX_GIVEN = 500
"""Maximum number of characters of arguments in a message."""


def register() -> None:
    """Register the environments of the project with Gymnasium."""
    import hero_envs

    gymnasium.register_envs(hero_envs)


def check_id(env_id: str) -> None:
    """Refuse an unknown environment; the error has the most similar known name.

    Raises:
        ConfigError: The id is not registered.
    """
    register()
    if ":" in env_id:  # "package:Name-v0" is imported by Gymnasium itself
        return
    if env_id not in gymnasium.registry:
        near = difflib.get_close_matches(env_id, list(gymnasium.registry), n=1, cutoff=0.4)
        raise ConfigError(
            f"No environment {env_id!r}. {f'Did you mean {near[0]!r}? ' if near else ''}List them with: hero_pl envs. "
            "Write your own environment with its package in front: your_package:YourEnv-v0."
        )


def registration(env_id: str) -> dict[str, Any] | None:
    """Arguments of ``gymnasium.register`` that make an id known to another process; ``None``: its package does so."""
    check_id(env_id)
    if ":" in env_id:
        return None
    spec = gymnasium.spec(env_id)
    entry_point = spec.entry_point
    if callable(entry_point):
        entry_point = f"{entry_point.__module__}:{getattr(entry_point, '__qualname__', entry_point)}"
    names = ("id", "max_episode_steps", "order_enforce", "disable_env_checker", "additional_wrappers", "kwargs")
    return {"entry_point": entry_point, **{name: getattr(spec, name) for name in names}}


def register_again(arguments: Mapping[str, Any] | None) -> None:
    """Make an id known that another process has described by :func:`registration`."""
    register()
    if arguments is None or arguments["id"] in gymnasium.registry:
        return
    with suppress(ImportError):  # make() says what is missing
        importlib.import_module(str(arguments["entry_point"]).partition(":")[0])
    if arguments["id"] not in gymnasium.registry:
        gymnasium.register(**arguments)


def make(env_id: str, /, split: str | None = None, **kwargs: Any) -> Env:
    """Create one environment; ``split`` is passed only if the environment has this argument.

    Raises:
        ConfigError: Unknown id, a package that cannot be imported or registers something else, or arguments that the
            environment refuses.
        EnvError: The environment raised anything else.
    """
    check_id(env_id)
    given = dict(kwargs)
    if "user" in kwargs:
        from hero_pl.rollout.local_user import with_model

        kwargs["user"] = with_model(kwargs["user"])
    try:
        kwargs |= _switches(env_id, kwargs)
        if split is not None and "split" in _parameters(env_id):
            kwargs["split"] = split
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    except ConfigError:
        raise
    except (TypeError, ValueError, FileNotFoundError, ImportError, AttributeError, gymnasium.error.Error) as error:
        raise ConfigError(f"The environment {env_id!r} cannot be created{_reason(env_id, given, error)}") from error
    except Exception as error:
        raise EnvError(f"The environment {env_id!r} cannot be created: {describe(error)}") from error


OF_NUMBERS = tuple(getattr(gymnasium.spaces, name) for name in ("Box", "Discrete", "MultiBinary", "MultiDiscrete"))


def check_text(env: Env) -> None:
    """Refuse environments with spaces of numbers; one without spaces may speak text.

    Raises:
        ConfigError: A space is not of text.
    """
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if isinstance(space, OF_NUMBERS):
            raise ConfigError(
                f"The environment {env.spec.id if env.spec else env!r} has the {name} {space}: expected text. Wrap it "
                "in an environment that reads and writes text (docs/extending.md)."
            )


def _parameters(env_id: str) -> Mapping[str, inspect.Parameter]:
    """The arguments of the environment."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry_point: Any = gymnasium.spec(name).entry_point
    if isinstance(entry_point, str):
        entry_point = gymnasium.envs.registration.load_env_creator(entry_point)
    return {} if entry_point is None else inspect.signature(entry_point).parameters


WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""Words for a boolean. In a configuration they are read as text, because ``no`` can be the code of a country."""


def _switches(env_id: str, arguments: Mapping[str, Any]) -> dict[str, bool]:
    """Boolean arguments of the environment that were written as a word.

    Raises:
        ConfigError: One is another text, which Python would treat as true.
    """
    values = {}
    for name, parameter in _parameters(env_id).items():
        value = arguments.get(name)
        if isinstance(value, str) and (parameter.annotation in (bool, "bool") or isinstance(parameter.default, bool)):
            if value.lower() not in WORDS:
                raise ConfigError(f"data.env_args.{name}={value!r}: {env_id} expects true or false.")
            values[name] = WORDS[value.lower()]
    return values


def _reason(env_id: str, given: Mapping[str, Any], error: Exception) -> str:
    """Reason why an environment could not be created, and what to do, in one line."""
    text = " ".join(str(error).split())
    package, _, name = env_id.rpartition(":")
    if isinstance(error, ImportError):
        return f": {text} Install what is missing, or set PYTHONPATH to the folder of your package."
    if isinstance(error, gymnasium.error.UnregisteredEnv) and package:
        near = difflib.get_close_matches(name, list(gymnasium.registry), n=1, cutoff=0.4)
        hint = f" Did you mean '{package}:{near[0]}'?" if near else ""
        return f": the package {package!r} registers no {name!r}.{hint} It must do so when it is imported."
    if isinstance(error, AttributeError):
        return f": {text}. Check the entry_point with which it is registered, and its __init__."
    text = text.partition(" was raised from the environment creator")[0]
    unknown = re.search(r"unexpected keyword argument '(\w+)'", text)
    near = difflib.get_close_matches(unknown[1], _parameters(env_id), n=1) if unknown else []
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return f" with data.env_args={str(dict(given))[:MAX_GIVEN]}: {text[:MAX_ERROR]}{hint}"


def task_ids(env: Env, seeds: int) -> list[str]:
    """The tasks of an environment; without a list of tasks, ``seeds`` tasks that are reset seeds."""
    named = getattr(env.unwrapped, "task_ids", None)
    return [str(task) for task in named] if named is not None else [str(seed) for seed in range(seeds)]


def contents(env: Env, tasks: Iterable[str]) -> Iterator[str]:
    """What tasks are, apart from their ids; nothing if the environment has no method ``content``.

    Raises:
        EnvError: The environment raised.
    """
    if hasattr(env.unwrapped, "content"):
        for task in tasks:
            yield str(_asked(env.unwrapped, "content", task))


def check_arguments(arguments: Mapping[str, Any], workers: int = 0) -> None:
    """Check arguments before an environment, and with it a user's model, is created.

    Args:
        arguments: Arguments of the environment.
        workers: Number of worker processes for the environment; 0: this process.

    Raises:
        ConfigError: A name is no text or is set elsewhere, a user in this process has invalid settings, or a user
            cannot run in workers or in several environments.
    """
    unnamed = [key for key in arguments if not isinstance(key, str)]
    if unnamed:
        raise ConfigError(f"data.env_args: the key {unnamed[0]!r} is no name of an argument. Put quotes around a text.")
    if "split" in arguments:
        raise ConfigError(
            f"data.env_args.split={arguments['split']!r}: each stage has its own split, which data.splits names. For "
            f"example: data.splits: {{train: {arguments['split']}}}."
        )
    user = arguments.get("user")
    if isinstance(user, User):
        raise ConfigError(
            f"data.env_args.user is a {type(user).__name__}: all environments would share it, but it plays one episode "
            "at a time. Give a name, such as scripted, or a mapping, or register an environment that makes its own."
        )
    if not isinstance(user, Mapping):
        return
    from hero_pl.rollout.local_user import read_user

    read_user(user)
    for key, why in (("pretrained", "every worker would load the model"), ("spend_cap", "every worker would spend it")):
        if workers and key in user:
            raise ConfigError(
                f"limits.workers={workers} with user.{key}: {why}. Set limits.workers to 0, and limits.threads to the "
                "number of users that may wait at once."
            )


def share_of(arguments: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """Arguments for the environments of one of several training processes: each may spend its part of a spend cap."""
    user = arguments.get("user")
    if processes == 1 or not isinstance(user, Mapping) or not user.get("spend_cap"):
        return dict(arguments)
    return {**arguments, "user": {**user, "spend_cap": user["spend_cap"] / processes}}


def begin(env: Env, task_id: str, seed: int, max_chars: int = MAX_CHARS) -> Answer:
    """Start the episode of one task.

    Args:
        env: Created by :func:`make`.
        task_id: One of its :func:`task_ids`.
        seed: Seed of the episode.
        max_chars: Maximum length of an observation; longer ones are cut.

    Raises:
        EnvError: The environment raised, or answered wrongly; names the field.
        EndpointError: A server that it asks answers nobody any more, or its spend cap is reached.
    """
    if getattr(env.unwrapped, "task_ids", None) is None:
        return read_start(_asked(env, "reset", seed=int(task_id)), max_chars)
    return read_start(_asked(env, "reset", seed=seed, options={"task": task_id}), max_chars)


def step(env: Env, action: str, max_chars: int = MAX_CHARS) -> Answer:
    """Carry out one action.

    Raises:
        EnvError: The environment raised, or answered wrongly; names the field.
        EndpointError: A server that it asks answers nobody any more, or its spend cap is reached.
    """
    return read_step(_asked(env, "step", action), max_chars)


class UnansweredError(EnvError):
    """A server that the environment uses gave no usable answer; the environment itself works."""


def _asked(env: Env, method: str, *args: Any, **kwargs: Any) -> object:
    """The return value of a method. An error breaks the episode, or ends the run if all episodes would fail."""
    try:
        return getattr(env, method)(*args, **kwargs)
    except (ConfigError, EnvError):
        raise
    except SpendCapReached as error:
        raise SpendCapError(str(error)) from error
    except EndpointDown as error:
        raise EndpointError(str(error)) from error
    except RequestFailed as error:
        raise UnansweredError(f"{method}() raised {describe(error)}") from error
    except Exception as error:
        raise EnvError(f"{method}() raised {describe(error)}") from error
    except SystemExit as error:
        if type(error) is not SystemExit:  # a signal that ends the run
            raise
        raise EnvError(f"{method}() raised {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Type and text of an error, even if its ``repr`` fails."""
    try:
        return repr(error)[:MAX_ERROR]
    except Exception:
        return type(error).__name__


def cancel(env: Env) -> None:
    """Cancel the requests of an environment that waits for a server in another thread."""
    getattr(env.unwrapped, "cancel", lambda: None)()


ABOUT_SCORE = ("user", "do_nothing_succeeds", "user_is_faithful")
"""Keys of ``info`` at the start that describe how to interpret the score."""
KEPT = (*ABOUT_SCORE, "plain_replies")
"""Keys that are stored with every episode. ``plain_replies``: whether plain text is a reply to a user, so that a
corrected action may be plain text."""
NOT_KEPT = ("tools", "system_prompt", "available_actions")
"""Keys that are not stored: they are long, and stored elsewhere or not needed after the turn."""
OWN = ("error", "rewritten_tokens")
"""Keys that a rollout writes to the same record, so an environment's entries with these names are not stored."""


def kept(info: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checked ``info`` that is written to the record at the end of an episode."""
    return {key: value for key, value in info.items() if key not in (*NOT_KEPT, *OWN)}


def import_tau_bench_data(source: Any, target: Any = None) -> str:
    """Import the official TauBench data; see :func:`hero_envs.tau_bench.importer.import_official`.

    Raises:
        ConfigError: The source is not the official data; nothing was written.
    """
    from hero_envs.tau_bench.importer import DataImportError, import_official
    from hero_envs.tau_bench.official import default_data_dir

    try:
        return str(import_official(source, target or default_data_dir()))
    except (DataImportError, OSError) as error:
        raise ConfigError(f"The TauBench data could not be imported from {source}: {error}") from error
