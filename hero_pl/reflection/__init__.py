"""Reflection: a finished trajectory becomes one diagnosis, or none, per turn."""
