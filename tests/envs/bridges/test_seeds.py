"""Tasks that are seeds of a generator."""

from hero_envs.bridges.seeds import MOST_TASKS, SPLITS, WORLDS, seeds_of


def test_bug_615_no_two_splits_and_no_two_worlds_have_a_task_in_common():
    parts = [seeds_of(split, MOST_TASKS, world) for split in SPLITS for world in (0, 1, WORLDS - 1)]
    assert len({seed for part in parts for seed in part}) == len(parts) * MOST_TASKS
