"""The committed list of tasks: ids and content hashes per split of the generated catalogs.

    python -m hero_envs.webshop.manifest            print what differs from the committed list
    python -m hero_envs.webshop.manifest --write    write the list again

The list shows which tasks belong to these ids, on any machine and with any number of workers.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files

from hero_envs.webshop.splits import content_hash
from hero_envs.webshop.tasks import Source, open_tasks

SOURCES = {
    "pocket": Source("pocket"),
    "generated": Source("generated", human_goals=True),
}
"""The catalogs of the list, with the default options of the environment."""

Manifest = dict[str, dict[str, dict[str, str]]]
"""Catalog -> split -> task id -> content hash."""


def make_manifest() -> Manifest:
    """Compute the list."""
    manifest: Manifest = {}
    for name, source in SOURCES.items():
        tasks = open_tasks(source)
        manifest[name] = {
            split: {tasks.ids[index]: content_hash(tasks.world.goals[index]) for index in indices}
            for split, indices in tasks.splits.items()
        }
    return manifest


def read_manifest() -> Manifest:
    """The committed list."""
    loaded: Manifest = json.loads((files("hero_envs.webshop") / "manifest.json").read_text(encoding="utf-8"))
    return loaded


def main() -> int:
    """Command line; the exit status is 1 if the lists differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the list into the package")
    manifest = make_manifest()
    if parser.parse_args().write:
        with open(str(files("hero_envs.webshop") / "manifest.json"), "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=0)
            file.write("\n")
    same = manifest == read_manifest()
    print("as committed" if same else "differs from the committed list")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
