"""The shop: sessions, actions and pages exactly as in the original text environment.

Gymnasium, step limits and tool calls are handled elsewhere. Two behaviors of the original depend on the text of the
URL, so URLs are the same as in the original.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, field, replace
from random import Random

from hero_envs.webshop.actions import parse_native
from hero_envs.webshop.catalog import World
from hero_envs.webshop.goals import Goal
from hero_envs.webshop.nouns import Nouns
from hero_envs.webshop.pages import (
    PAGE_SIZE,
    SUB_PAGES,
    Page,
    done_page,
    index_page,
    item_page,
    render_text,
    results_page,
    sub_page,
)
from hero_envs.webshop.products import Product
from hero_envs.webshop.reward import Components, purchase_reward

BASE_URL = "http://127.0.0.1:3000"
RANDOM_PRODUCTS = 50
_PAGE_NAMES = ("search_results", "item_page", "item_sub_page", "done")


@dataclass(slots=True)
class Session:
    """State of one visitor; everything except the goal is reset on the index page."""

    id: str
    goal: Goal
    goal_index: int
    keywords: list[str] = field(default_factory=list)
    page: int = 0
    asin: str | None = None
    visited: set[str] = field(default_factory=set)
    options: dict[str, str] = field(default_factory=dict)


class Shop:
    """One visitor's view of the shop.

    Args:
        world: Products, prices and goals.
        nouns: Noun extractor of the reward.
        rng: Generator for session names, weighted goals and random products; default: the one that built the goals.
        show_attributes: Offer the attributes sub page.
        num_prev_obs: Number of earlier observations in each returned state.
        num_prev_actions: Number of earlier actions in each returned state.
        session_prefix: Prefix of every session name.
    """

    def __init__(
        self,
        world: World,
        nouns: Nouns,
        rng: Random | None = None,
        show_attributes: bool = False,
        num_prev_obs: int = 0,
        num_prev_actions: int = 0,
        session_prefix: str = "",
    ) -> None:
        self.world = world
        self.nouns = nouns
        self.rng = world.generator() if rng is None else rng
        self.search = world.catalog.search
        self.show_attributes = show_attributes
        self.num_prev_obs = num_prev_obs
        self.num_prev_actions = num_prev_actions
        self.session_prefix = session_prefix
        self.sessions: dict[str, tuple[Goal, int]] = {}
        self.components: Components = {}
        """Components of the last purchase's reward."""
        self.bought: str | None = None
        """Asin of the last purchase of this episode."""
        self.reset()

    def reset(self, session: int | str | None = None) -> str:
        """Start at the index page.

        Args:
            session: An integer selects the goal of that index, a string keeps the goal drawn at its first use, ``None``
                draws both.

        Returns:
            The flat observation.

        Raises:
            IndexError: There is no goal with that index.
        """
        name = "".join(self.rng.choices(string.ascii_lowercase, k=10)) if session is None else str(session)
        name = self.session_prefix + name
        if name not in self.sessions:
            index = session if isinstance(session, int) else self.world.goal_set.draw(self.rng)
            goals = self.world.goals
            if not -len(goals) <= index < len(goals):
                raise IndexError(f"session={session}: expected a goal index from {-len(goals)} to {len(goals) - 1}.")
            self.sessions[name] = goals[index], index % len(goals)
        return self._begin(name)

    def start(self, index: int, instruction: str | None = None) -> str:
        """Start at the index page with the goal of this index, and discard the current session.

        Args:
            index: Position of the goal in final order.
            instruction: Text shown instead of the goal's own.

        Returns:
            The flat observation.
        """
        goal = self.world.goals[index]
        if instruction is not None:
            goal = replace(goal, instruction_text=instruction)
        self.sessions = {str(index): (goal, index)}
        return self._begin(str(index))

    def _begin(self, name: str) -> str:
        self._open_index(name)
        self.components, self.bought = {}, None
        observation = render_text(self.page)
        self._observations, self._actions = [observation], list[str]()
        return observation

    def step(self, action: str) -> tuple[str, float, bool]:
        """Apply a native action; return state, reward and whether a product was bought. Invalid actions do nothing."""
        reward, done, _ = self.apply(*parse_native(action))
        return self._with_history(action), reward, done

    def apply(self, name: str | None, argument: str | None) -> tuple[float, bool, bool]:
        """Apply a parsed action to the current page.

        Returns:
            Reward, whether a product was bought, and whether the action was possible on this page.
        """
        if name == "search" and argument is not None:
            self._search(argument.split(" "))
            return 0.0, False, True
        if name == "click" and argument is not None and argument != "search" and argument in self.page.clickables:
            return (*self._click(argument), True)
        return 0.0, False, False

    def _search(self, keywords: list[str]) -> None:
        self.session.keywords = keywords
        self._open_results(1)

    def _click(self, label: str) -> tuple[float, bool]:
        session, name = self.session, self._page_name()
        if label == "buy now":
            return self._buy(), True
        if label == "back to search":
            self._open_index(session.id)
        elif label == "next >" and name == "search_results":
            self._open_results(session.page + 1)
        elif label == "< prev" and name == "search_results":
            self._open_results(session.page - 1)
        elif label == "< prev" and name == "item_page":
            self._open_results(session.page)
        elif label == "< prev" and name == "item_sub_page":
            self._open_item()
        elif label in SUB_PAGES:
            self._open_sub(label)
        else:
            element = self.page.clickables[label]
            if element.kind == "link":
                session.asin = label.upper() if label.upper() in self.world.catalog.row_of else element.target
                session.visited.add(session.asin)
            elif element.kind == "option":
                session.options[element.target] = label
            self._open_item()
        return 0.0, False

    def _page_name(self) -> str:
        """The first known page name in the URL; as in the original, text of a query can match too."""
        return next((name for name in _PAGE_NAMES if name in self.page.url), "")

    def _open_index(self, name: str) -> None:
        goal, index = self.sessions[name]
        self.session = Session(name, goal, index)
        self.page: Page = index_page(f"{BASE_URL}/{name}", goal.instruction_text)

    def _open_results(self, number: int) -> None:
        session = self.session
        session.page, session.asin, session.options = number, None, {}
        rows = self._find(session.keywords)
        shown = rows[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
        self.page = results_page(
            f"{BASE_URL}/search_results/{session.id}/{'+'.join(session.keywords)}/{number}",
            session.goal.instruction_text,
            number,
            len(rows),
            shown,
            [self.world.catalog.products[row] for row in shown],
            session.visited,
        )

    def _find(self, keywords: list[str]) -> list[int]:
        """Rows for the keywords; the first keyword may select another kind of query."""
        catalog, rest = self.world.catalog, keywords[1:]
        if keywords[0] == "<r>":
            return self.rng.sample(range(len(catalog.products)), min(RANDOM_PRODUCTS, len(catalog.products)))
        if keywords[0] == "<a>":
            return []  # the original fails here
        if keywords[0] == "<c>":
            return catalog.in_category(rest[0].strip()) if rest else []  # without a category the original fails
        if keywords[0] == "<q>":
            return catalog.with_query(" ".join(rest))
        return self.search(" ".join(keywords))

    def _open_item(self) -> None:
        session = self.session
        url = f"{BASE_URL}/item_page/{self._item_path()}/{json.dumps(session.options)}"
        self.page = item_page(url, session.goal.instruction_text, self.product(), self.show_attributes)

    def _open_sub(self, label: str) -> None:
        url = f"{BASE_URL}/item_sub_page/{self._item_path()}/{SUB_PAGES[label]}/{self.session.options}"
        self.page = sub_page(url, self.session.goal.instruction_text, self.product(), label)

    def _buy(self) -> float:
        session = self.session
        assert session.asin is not None, "only item pages have the button"
        price = self.world.prices[self.world.catalog.row_of[session.asin]]
        reward, self.components = purchase_reward(self.product(), session.goal, price, session.options, self.nouns)
        self.bought = session.asin
        url = f"{BASE_URL}/done/{session.id}/{session.asin}/{session.options}"
        self.page = done_page(url, session.asin, session.options, reward)
        return reward

    def _item_path(self) -> str:
        session = self.session
        return f"{session.id}/{session.asin}/{'+'.join(session.keywords)}/{session.page}"

    def product(self) -> Product:
        """The product of the current page."""
        assert self.session.asin is not None, "item pages are reached through a product"
        return self.world.catalog.products[self.world.catalog.row_of[self.session.asin]]

    def _with_history(self, action: str) -> str:
        """The state as in the original: earlier observations and actions, oldest first, then the current page."""
        observation = render_text(self.page)
        self._actions.append(action)
        parts: list[str] = []
        for back in range(max(self.num_prev_obs, self.num_prev_actions), 0, -1):
            if back <= self.num_prev_obs and len(self._observations) >= back:
                parts.append(self._observations[-back])
            if back <= self.num_prev_actions and len(self._actions) >= back:
                parts.append(self._actions[-back])
        self._observations.append(observation)
        return " [SEP] ".join([*parts, observation])
