"""Play tasks to the end, many at once."""
