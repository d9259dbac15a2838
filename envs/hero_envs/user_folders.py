"""Folders of the user for data and caches, by the custom of each operating system."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal


def user_folder(kind: Literal["data", "cache"], name: str, variable: str) -> Path:
    """A folder of this package.

    Args:
        kind: ``data`` is kept; ``cache`` can be made again.
        name: Of the folder.
        variable: Environment variable that names another folder.
    """
    if os.environ.get(variable):
        return Path(os.environ[variable])
    home, data = Path.home(), kind == "data"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / ("Application Support" if data else "Caches")
    elif data:
        base = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    return base / "hero_pl" / name
