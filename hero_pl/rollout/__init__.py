"""Play many episodes concurrently."""
