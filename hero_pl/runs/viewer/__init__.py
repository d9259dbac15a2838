"""Show the episodes of runs, as one static HTML file or in the terminal."""

from hero_pl.runs.viewer.page import Source, write_html
from hero_pl.runs.viewer.terminal import print_terminal

__all__ = ["Source", "print_terminal", "write_html"]
