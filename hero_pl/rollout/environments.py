"""Make environments; with ``check_env`` the only module of hero_pl that touches Gymnasium."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gymnasium

from hero_envs.chat_endpoint import EndpointDown, RequestFailed, SpendCapReached
from hero_pl.errors import ConfigError, EndpointError, EnvError, SpendCapError
from hero_pl.rollout.answers import MAX_CHARS, Answer, read_start, read_step

Env = gymnasium.Env[str, str]
MAX_ERROR = 2000
"""Characters of an error's text that are kept."""


def register() -> None:
    """Make the project's own environments known to Gymnasium."""
    import hero_envs

    gymnasium.register_envs(hero_envs)


def check_id(env_id: str) -> None:
    """Refuse an unknown environment, with the nearest known name.

    Raises:
        ConfigError: No such id is registered.
    """
    register()
    if ":" in env_id:  # "package:Name-v0" is imported by Gymnasium itself
        return
    if env_id not in gymnasium.registry:
        near = difflib.get_close_matches(env_id, list(gymnasium.registry), n=1, cutoff=0.4)
        raise ConfigError(
            f"No environment {env_id!r}. {f'Did you mean {near[0]!r}? ' if near else ''}List them with: hero_pl envs. "
            "An environment of your own needs its package in front: your_package:YourEnv-v0."
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


def make(env_id: str, split: str | None = None, **kwargs: Any) -> Env:
    """One environment; ``split`` is passed on only if the environment knows the word.

    Raises:
        ConfigError: Unknown id, a package that cannot be imported or registers something else, or arguments that the
            environment refuses.
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
        raise ConfigError(f"The environment {env_id!r} cannot be made{_reason(env_id, given, error)}") from error


def _parameters(env_id: str) -> Mapping[str, inspect.Parameter]:
    """What the environment can be given."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry_point: Any = gymnasium.spec(name).entry_point
    if isinstance(entry_point, str):
        entry_point = gymnasium.envs.registration.load_env_creator(entry_point)
    return {} if entry_point is None else inspect.signature(entry_point).parameters


WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""What a person writes for a boolean; in a configuration it is text, for a country can be called ``no``."""


def _switches(env_id: str, arguments: Mapping[str, Any]) -> dict[str, bool]:
    """Arguments that the environment takes as boolean and that were written as a word.

    Raises:
        ConfigError: One is another text, which Python would take for true.
    """
    found = {}
    for name, parameter in _parameters(env_id).items():
        value = arguments.get(name)
        if isinstance(value, str) and (parameter.annotation in (bool, "bool") or isinstance(parameter.default, bool)):
            if value.lower() not in WORDS:
                raise ConfigError(f"data.env_args.{name}={value!r}: {env_id} takes true or false there.")
            found[name] = WORDS[value.lower()]
    return found


def _reason(env_id: str, given: Mapping[str, Any], error: Exception) -> str:
    """What went wrong when an environment was made, in one line, and the cure."""
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
    return f" with {dict(given)}: {text}"


def task_ids(env: Env, seeds: int) -> list[str]:
    """The tasks of an environment; one that names none gets ``seeds`` tasks, each a reset seed."""
    named = getattr(env.unwrapped, "task_ids", None)
    return [str(task) for task in named] if named is not None else [str(seed) for seed in range(seeds)]


def check_arguments(arguments: Mapping[str, Any], workers: int = 0) -> None:
    """Refuse what can be seen to be wrong before an environment, and with it a user's model, is made.

    Args:
        arguments: Of the environment.
        workers: Processes in which it is to run; 0: in this one.

    Raises:
        ConfigError: A user in this process has unknown or unusable settings, or a user cannot be played by workers.
    """
    user = arguments.get("user")
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


def begin(env: Env, task_id: str, seed: int, max_chars: int = MAX_CHARS) -> Answer:
    """Start the episode of one task.

    Args:
        env: Made by :func:`make`.
        task_id: One of its :func:`task_ids`.
        seed: Of the episode.
        max_chars: A longer observation is cut.

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
    """A server that the environment asks gave no usable answer; the environment itself is sound."""


def _asked(env: Env, method: str, *args: Any, **kwargs: Any) -> object:
    """What the environment returns; what it raises costs the episode, unless no other would go better."""
    try:
        return getattr(env, method)(*args, **kwargs)
    except (ConfigError, EnvError):
        raise
    except SpendCapReached as error:
        raise SpendCapError(str(error)) from error
    except EndpointDown as error:
        raise EndpointError(str(error)) from error
    except RequestFailed as error:
        raise UnansweredError(f"{method}() raised {told(error)}") from error
    except Exception as error:
        raise EnvError(f"{method}() raised {told(error)}") from error
    except SystemExit as error:
        if type(error) is not SystemExit:  # a signal that ends the run
            raise
        raise EnvError(f"{method}() raised {told(error)}") from error


def told(error: BaseException) -> str:
    """Type and text of an error, whatever its ``repr`` does."""
    try:
        return repr(error)[:MAX_ERROR]
    except Exception:
        return type(error).__name__


def cancel(env: Env) -> None:
    """Let an environment that waits for a server in another thread give up."""
    getattr(env.unwrapped, "cancel", lambda: None)()


ABOUT_SCORE = ("user", "do_nothing_succeeds", "user_is_faithful")
"""What an environment may say at the start about how to read the score."""
KEPT = (*ABOUT_SCORE, "plain_replies")
"""What is kept with the episode however it ends. ``plain_replies``: whether plain words are said to a user, so that a
corrected action may be a reply."""
NOT_KEPT = ("tools", "system_prompt", "available_actions")
"""Long, and known from elsewhere or not needed after the turn."""
OWN = ("error", "rewritten_tokens")
"""What a rollout itself writes beside it; an environment's entry of that name would be taken for it."""


def kept(info: Mapping[str, Any]) -> dict[str, Any]:
    """What of a checked ``info`` is written to a record at the end of an episode."""
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
