"""What finished episodes say about a policy: metrics, summaries, intervals."""
