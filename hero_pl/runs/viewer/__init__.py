"""Look at what happened in a run: one static HTML file, or the terminal."""

from hero_pl.runs.viewer.page import write_html
from hero_pl.runs.viewer.terminal import print_terminal

__all__ = ["print_terminal", "write_html"]
