"""Can a model read its hints? Measured before training, for every wording and position (``docs/hints.md``)."""
