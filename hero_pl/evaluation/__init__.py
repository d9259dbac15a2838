"""Evaluate finished episodes: metrics, summaries, intervals."""
