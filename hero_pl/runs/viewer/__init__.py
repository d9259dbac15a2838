"""Show the episodes of a run, as one static HTML file or in the terminal."""

from hero_pl.runs.viewer.page import write_html
from hero_pl.runs.viewer.terminal import print_terminal

__all__ = ["print_terminal", "write_html"]
