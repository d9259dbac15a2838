"""Objectives: each computes a loss from a rollout batch."""
