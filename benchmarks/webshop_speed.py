"""Speed and memory of the WebShop environment.

    python benchmarks/webshop_speed.py                              steps per CPU second at 1 000 products
    python benchmarks/webshop_speed.py --data DIR                   the same on official files
    python benchmarks/webshop_speed.py --products 200000 --store    a large catalog through the on-disk store

Every search has a new query. An episode is: search, next page and back, open a product, read its description, choose
options, buy. The output is one JSON object per line; times are CPU seconds of one process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import gymnasium as gym
import numpy as np
from memory import peak_mib

import hero_envs
from hero_envs.webshop.catalog import World
from hero_envs.webshop.generated import write_official
from hero_envs.webshop.nouns import get_nouns
from hero_envs.webshop.official import STORE_ABOVE_BYTES, find_files, load_official
from hero_envs.webshop.shop import Shop

gym.register_envs(hero_envs)


def show(**values: object) -> None:
    print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def queries(products, count: int, seed: int = 0) -> list[str]:
    """Different queries of two to six title words and a number."""
    rng = Random(seed)
    size = len(products)
    words = [word for _ in range(2000) for word in products[rng.randrange(size)].title.lower().split()]
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choices(words, k=rng.randint(2, 6)))] = None
    return list(found)


def play(step, start, page, ask: list[str], seed: int = 0) -> tuple[int, float]:
    """Play one episode per query: number of steps and CPU seconds."""
    rng = Random(seed)
    steps, begun = 0, time.process_time()
    for query in ask:
        start(rng)
        actions = [f"search[{query}]", "click[next >]", "click[< prev]"]
        for action in actions:
            step(action)
        steps += len(actions)
        links = [label for label, element in page().clickables.items() if element.kind == "link"]
        if not links:
            continue
        actions = [f"click[{rng.choice(links)}]", "click[description]", "click[< prev]"]
        for action in actions:
            step(action)
        options = [label for label, element in page().clickables.items() if element.kind == "option"]
        actions = [f"click[{label}]" for label in rng.sample(options, min(2, len(options)))] + ["click[buy now]"]
        for action in actions:
            step(action)
        steps += 3 + len(actions)
    return steps, time.process_time() - begun


def measure_steps(catalog, env_options: dict[str, object], episodes: int) -> None:
    ask = queries(catalog.products, 2 * episodes)
    world = World(catalog, human=True, price_seed=0)
    shop = Shop(world, get_nouns("rules"))
    goals = len(world.goals)
    steps, spent = play(shop.step, lambda rng: shop.start(rng.randrange(goals)), lambda: shop.page, ask[:episodes])
    show(what="page machine", products=len(catalog.products), steps=steps, steps_per_cpu_second=steps / spent)
    env = gym.make("hero_pl/WebShop-v0", split="all", max_steps=None, **env_options)
    inner = env.unwrapped
    count = len(inner.task_ids)
    steps, spent = play(
        env.step,
        lambda rng: env.reset(options={"goal": rng.randrange(count)}),
        lambda: inner._shop.page,
        ask[episodes:],
    )
    show(what="Gymnasium environment", products=len(catalog.products), steps=steps, steps_per_cpu_second=steps / spent)


def measure_search(catalog, count: int) -> None:
    spent = []
    for query in queries(catalog.products, count, seed=1):
        begun = time.process_time()
        catalog.search(query)
        spent.append(time.process_time() - begun)
    median, late = (float(np.quantile(spent, q)) for q in (0.5, 0.95))
    show(what="new query", products=len(catalog.products), median_s=median, p95_s=late, mean_s=float(np.mean(spent)))


def timed_load(directory: Path, what: str):
    begun, cpu = time.perf_counter(), time.process_time()
    catalog = load_official(directory)
    show(
        what=what,
        products=len(catalog.products),
        wall_s=time.perf_counter() - begun,
        cpu_s=time.process_time() - cpu,
        peak_mib=peak_mib(),
        postings=len(catalog.index.postings.documents),
    )
    return catalog


def in_fresh_process(function, *arguments) -> None:
    """Run with its own peak memory."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def use_store(directory: Path, episodes: int) -> None:
    catalog = timed_load(directory, "open the store")
    measure_search(catalog, 300)
    measure_steps(catalog, {"data_dir": str(directory), "nouns": "rules"}, episodes)
    show(what="after use", peak_mib=peak_mib())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--data", type=Path, help="folder with official files instead of a generated catalog")
    parser.add_argument("--store", action="store_true", help="go through the on-disk store")
    parser.add_argument("--episodes", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = arguments.data or Path(folder)
        if arguments.data is None:
            write_official(directory, arguments.products)
        size = find_files(directory).products.stat().st_size
        show(what="input", megabytes=size / 1e6, python=platform.python_version(), numpy=np.__version__)
        if arguments.store:
            if size <= STORE_ABOVE_BYTES:
                parser.error(f"--store needs a product file above {STORE_ABOVE_BYTES >> 20} MiB: take more --products")
            in_fresh_process(timed_load, directory, "convert and open")
            in_fresh_process(use_store, directory, min(arguments.episodes, 300))
        else:
            catalog = timed_load(directory, "load and index")
            measure_search(catalog, 1000)
            measure_steps(catalog, {"data_dir": str(directory), "nouns": "rules"}, arguments.episodes)


if __name__ == "__main__":
    main()
