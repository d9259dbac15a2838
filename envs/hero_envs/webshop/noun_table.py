"""Write the noun table of a catalog with spaCy; the environment then does not need spaCy.

    python -m hero_envs.webshop.noun_table --data DIR --out nouns.json [--nouns spacy:en_core_web_sm]

Pass the table to the environment as ``nouns="nouns.json"``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from hero_envs.webshop.nouns import Nouns, get_nouns
from hero_envs.webshop.official import load_official


def noun_table(titles: Iterable[str], nouns: Nouns) -> dict[str, list[str]]:
    """Nouns per title."""
    return {title: nouns.of(title)[0] for title in titles}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the official files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nouns", default="spacy", help="extractor: spacy, spacy:MODEL or rules")
    arguments = parser.parse_args()
    titles = (product.title for product in load_official(arguments.data).products)
    table = noun_table(titles, get_nouns(arguments.nouns))
    arguments.out.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    print(f"{len(table)} titles")


if __name__ == "__main__":
    main()
