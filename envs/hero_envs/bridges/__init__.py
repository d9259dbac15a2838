"""Environments that others wrote, one module per package; each needs an optional extra (docs/environments.md)."""
