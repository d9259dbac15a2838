"""Count held-out tasks of generated environments that are training tasks, although their seeds differ.

    python benchmarks/shared_tasks.py hero_pl/TextArena-v0 game TowerOfHanoi-v0 GuessTheNumber-v0

For each value of an argument of the environment it makes the training and the test split and prints how many tasks are
different ones. Needs the extra of the environment.
"""

from __future__ import annotations

import argparse

from hero_pl.rollout.environments import contents, make, task_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", help="registered id of an environment with a method `content`")
    parser.add_argument("argument", help="its argument that names a game or data set")
    parser.add_argument("values", nargs="+", help="values of the argument")
    args = parser.parse_args()
    print(f"| {args.argument} | different training tasks | test tasks that are training tasks |\n|---|---|---|")
    for value in args.values:
        trained, held_out = (tasks_of(args.env, split, {args.argument: value}) for split in ("train", "test"))
        different = set(trained)
        shared = sum(task in different for task in held_out)
        print(f"| `{value}` | {len(different)} of {len(trained)} | {shared} of {len(held_out)} |", flush=True)


def tasks_of(env_id: str, split: str, settings: dict[str, str]) -> list[str]:
    """What each task of a split is, apart from its id."""
    env = make(env_id, split, **settings)
    try:
        return list(contents(env, task_ids(env, 0)))
    finally:
        env.close()


if __name__ == "__main__":
    main()
