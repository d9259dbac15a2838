"""Checks on a small copy of an architecture that sampler, scorer and the plain forward pass agree."""
