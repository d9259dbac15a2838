"""Sampling on servers that stand beside the trainer: ids in, ids and log-probabilities out, weights by folder."""
