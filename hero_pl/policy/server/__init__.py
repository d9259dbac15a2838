"""Sampling on vLLM servers: ids in, ids and log-probabilities out; weights are sent through a folder."""
