"""``hero_pl init``: a project with an environment, a run and tests."""

from __future__ import annotations

import importlib.util
import keyword
from pathlib import Path

from hero_pl.errors import ConfigError
from hero_pl.runs.folders import must_be_new

TEMPLATES = Path(__file__).parent / "project"


def write_project(folder: Path) -> list[Path]:
    """Write the files of a new project; its module has the name of the folder.

    Args:
        folder: New, or empty.

    Returns:
        The files.

    Raises:
        ConfigError: The folder has files, or its name cannot be that of a module.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    name = folder.resolve().name.replace("-", "_").lower()
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        raise ConfigError(
            f"The folder {folder} would make a Python module {name!r}, which cannot be the name of one. Take letters, "
            "digits and underscores, a letter first, for example my_env."
        )
    must_be_new(folder, "Name a new folder.")
    known = importlib.util.find_spec(name)
    if known is not None and known.origin is not None:  # an empty folder of that name is a module without an origin
        raise ConfigError(f"There is a Python module {name!r} already. Take another name, for example my_{name}.")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    names = {
        "environment.py": f"{name}.py",
        "test_environment.py": f"test_{name}.py",
        "run.yaml": "run.yaml",
        "README.md": "README.md",
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for template, file in names.items():
        path = folder / file
        path.write_text(environment.get_template(f"{template}.jinja").render(name=name), encoding="utf-8")
        written.append(path)
    return written
