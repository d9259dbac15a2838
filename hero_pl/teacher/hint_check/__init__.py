"""Measure before training whether a model can use its hints, for every wording and position (``docs/hints.md``)."""
