"""Prompts as ids: rendering, splicing hints, reading actions."""
