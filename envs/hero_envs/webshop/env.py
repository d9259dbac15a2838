"""WebShop as a Gymnasium environment: tasks, splits, limits and observations around the page machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from random import Random
from typing import Any

import gymnasium as gym

from hero_envs.spaces import UnicodeText
from hero_envs.webshop.actions import TOOLS, page_spelling, parse
from hero_envs.webshop.compact import link_names, render_compact
from hero_envs.webshop.nouns import NounRule, Nouns, get_nouns
from hero_envs.webshop.pages import ACTIONS_HEADING, render_text, render_text_rich
from hero_envs.webshop.pocket import pocket_nouns
from hero_envs.webshop.shop import Shop
from hero_envs.webshop.tasks import Source, open_tasks

OBSERVATIONS = ("text", "text_rich", "compact")
POCKET_PROMPT = "shop"
SYSTEM_PROMPT = """\
You are shopping for someone else. Their request names a kind of product, properties it must have, options to
choose and sometimes a price limit. Find the product that fits best, choose every requested option on its page,
then buy it.

Send exactly one action per message:
search[words]   looks for products; use a few keywords, not the whole request
click[text]     presses a button, opens a product or chooses an option; copy the text exactly as the page shows it

A purchase ends the task and is scored by how much of the request it meets. An action that is not possible leaves
the page as it is."""


class WebShopEnv(gym.Env[str, str]):
    """Buy the product that the instruction asks for, by searching and clicking.

    Actions are the benchmark's own ``search[...]`` and ``click[...]`` or a tool call as JSON. An action that is not
    possible on a page changes nothing and is reported in ``info``; it never raises.

    Args:
        catalog: ``pocket``, ``generated`` or ``official``; by default ``official`` with a ``data_dir`` and
            ``generated`` without.
        data_dir: Folder with the official data files. Files of other sizes than the published ones are accepted with a
            warning: scores are then not comparable.
        store_dir: Folder for the on-disk store of large official files; default: next to them.
        products: Size of the generated catalog, or the number of raw entries to load from the official one (default:
            all).
        difficulty: Difficulty of the generated catalog: ``easy``, ``medium`` or ``hard``.
        catalog_seed: Seed of a generated catalog.
        other_things: Sell other categories and materials in the pocket catalog, for policies that were trained on the
            usual ones.
        split: ``train``, ``validation``, ``test`` or ``all``; generated catalogs have ``warmup`` too.
        human_goals: Use goals from human instructions; default: for all catalogs except ``pocket``.
        price_seed: Seed of prices and price bounds. Rewards with different seeds are not comparable.
        limit_goals: Keep a weighted choice of this many goals, -1 for all.
        nouns: Noun extractor of the type match, see :func:`hero_envs.webshop.nouns.get_nouns`; by default ``spacy``
            for the official data, as in the benchmark, and the rules for generated ones.
        observation: ``text``, ``text_rich`` or ``compact``.
        show_available_actions: List the possible actions under each observation.
        compact_buttons: List the remaining buttons in the compact observation.
        show_attributes: Offer the attributes page.
        max_steps: Truncate the episode after this many actions; ``None`` for no limit.
        max_noops: Truncate the episode after this many actions without effect, counted over the whole episode.
        instruction: Text that replaces the instruction of every goal (the goal and its reward stay the same).
        system_prompt: Text that replaces the environment's own system prompt.
        render_mode: ``ansi`` or ``None``.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - the type is Gymnasium's

    def __init__(
        self,
        catalog: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        store_dir: str | os.PathLike[str] | None = None,
        products: int | None = None,
        difficulty: str = "medium",
        catalog_seed: int = 0,
        other_things: bool = False,
        split: str = "train",
        human_goals: bool | None = None,
        price_seed: int = 0,
        limit_goals: int = -1,
        nouns: str | Nouns | NounRule | Mapping[str, list[str]] | None = None,
        observation: str = "text",
        show_available_actions: bool = False,
        compact_buttons: bool = False,
        show_attributes: bool = False,
        max_steps: int | None = 15,
        max_noops: int | None = None,
        instruction: str | None = None,
        system_prompt: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation={observation!r}: expected one of {', '.join(OBSERVATIONS)}.")
        catalog = catalog or ("official" if data_dir is not None else "generated")
        human = catalog != "pocket" if human_goals is None else human_goals
        self.source = Source(
            catalog=catalog,
            data_dir=None if data_dir is None else os.fspath(data_dir),
            store_dir=None if store_dir is None else os.fspath(store_dir),
            products=products,
            difficulty=difficulty,
            catalog_seed=catalog_seed,
            other_things=other_things,
            human_goals=human,
            price_seed=price_seed,
            limit_goals=limit_goals,
        )
        tasks = self._tasks = open_tasks(self.source)
        splits = {**tasks.splits, "all": range(len(tasks.ids))}
        if split not in splits:
            raise ValueError(f"split={split!r}: expected one of {', '.join(splits)} for the {catalog} catalog.")
        self._indices = splits[split]
        if not self._indices:
            raise ValueError(
                f"split={split!r} is empty: the catalog has only {len(tasks.ids)} goals. "
                "Load more products or use split='all'."
            )
        if nouns is None:
            nouns = pocket_nouns() if catalog == "pocket" else "spacy" if catalog == "official" else "rules"
        self._nouns = get_nouns(nouns)
        self._shop = Shop(tasks.world, self._nouns, Random(0), show_attributes)
        own_prompt = POCKET_PROMPT if catalog == "pocket" else SYSTEM_PROMPT
        self.system_prompt = own_prompt if system_prompt is None else system_prompt
        self._observation, self._instruction = observation, instruction
        self._show_actions, self._compact_buttons = show_available_actions, compact_buttons
        self.max_steps, self.max_noops = max_steps, max_noops
        self.render_mode = render_mode
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText()
        self._over = True

    @property
    def task_ids(self) -> list[str]:
        """Ids of the split's tasks, in a fixed order."""
        return [self._tasks.ids[index] for index in self._indices]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a task.

        Args:
            seed: Seed for drawing the task and random product lists.
            options: ``{"task": id}`` or ``{"goal": index}`` selects a task (of any split), ``{"session": name}``
                selects a task of the split by this name, ``{"instruction": text}`` replaces the text of the goal.
                Without a selection a task of the split is drawn.

        Raises:
            ValueError: The task does not exist.
        """
        super().reset(seed=seed)
        options = options or {}
        index = self._choose(options)
        self.task = self._tasks.ids[index]
        self._shop.rng = Random(int(self.np_random.integers(1 << 31)))
        instruction = options.get("instruction", self._instruction)
        if not isinstance(instruction, str | None):
            raise ValueError(f"instruction={instruction!r}: expected a string or None.")
        self._shop.start(index, instruction)
        self._steps = self._noops = 0
        self._over = False
        info = self._info(tool_call=False)
        info |= {"system_prompt": self.system_prompt, "tools": TOOLS, "plain_replies": False}
        return self._show(), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Apply one action.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, or none was started.
        """
        if self._over:
            raise gym.error.ResetNeeded("This episode is over: call reset() before the next step().")
        name, argument, tool_call = parse(action)
        shop = self._shop
        if name == "click" and argument is not None:
            if self._observation == "compact" and shop.page.kind == "results":
                links = link_names(shop.page, shop.world.catalog.products)
                argument = links.get(page_spelling(argument, links), argument)
            argument = page_spelling(argument, shop.page.clickables)
        before = shop.page.url
        reward, terminated, legal = shop.apply(name, argument)
        changed = shop.page.url != before
        self._steps += 1
        self._noops += not changed
        truncated = not terminated and (
            (self.max_steps is not None and self._steps >= self.max_steps)
            or (self.max_noops is not None and self._noops >= self.max_noops)
        )
        self._over = terminated or truncated
        info = self._info(tool_call)
        info |= {"legal": legal, "changed": changed}
        if self._over:
            info |= self._result(reward)
        text = self._show()
        if self._observation == "compact" and not changed:
            text = f"error: {text}"
        return text, reward, terminated, truncated, info

    def render(self) -> str:
        """The current observation."""
        return self._show()

    def _choose(self, options: Mapping[str, Any]) -> int:
        if (task := options.get("task")) is not None:
            if not isinstance(task, str) or task not in self._tasks.index_of:
                raise ValueError(f"task={task!r}: expected one of task_ids, for example {self.task_ids[0]!r}.")
            return self._tasks.index_of[task]
        if (goal := options.get("goal")) is not None:
            if not isinstance(goal, int) or isinstance(goal, bool) or not 0 <= goal < len(self._tasks.ids):
                raise ValueError(f"goal={goal!r}: expected an index from 0 to {len(self._tasks.ids) - 1}.")
            return goal
        if (session := options.get("session")) is not None:
            return Random(f"session {session}").choice(self._indices)
        return self._indices[int(self.np_random.integers(len(self._indices)))]

    def _show(self) -> str:
        shop = self._shop
        if self._observation == "compact":
            text = render_compact(shop, self._compact_buttons)
        else:
            text = render_text(shop.page) if self._observation == "text" else render_text_rich(shop.page)
        if self._show_actions and (actions := self._available_actions()):
            text += ACTIONS_HEADING + ", ".join(actions)
        return text

    def _available_actions(self) -> list[str]:
        page = self._shop.page
        if page.kind == "index":
            return ["search[<content>]"]
        labels = list(page.clickables)
        if page.kind == "results":
            if not page.rows:
                labels.remove("next >")
            if self._observation == "compact":
                links = link_names(page, self._shop.world.catalog.products)
                labels = [*(label for label in labels if page.clickables[label].kind == "button"), *links]
        return [f"click[{label}]" for label in labels]

    def _info(self, tool_call: bool) -> dict[str, Any]:
        shop = self._shop
        return {
            "role": "tool" if tool_call else "user",
            "task": self.task,
            "goal": {"index": shop.session.goal_index, "asin": shop.session.goal.asin},
            "page": shop.page.kind,
            "available_actions": self._available_actions(),
        }

    def _result(self, reward: float) -> dict[str, Any]:
        """Facts that every result should include."""
        return {
            "success": reward == 1.0,
            "reward": reward,
            "components": dict(self._shop.components),
            "bought": self._shop.bought,
            "chosen_options": dict(self._shop.session.options),
            "steps": self._steps,
            "noops": self._noops,
            "catalog": self._tasks.world.catalog.name,
            "price_seed": self.source.price_seed,
            "nouns": self._nouns.name,
        }
