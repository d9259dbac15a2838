"""TextWorld games: rules that read only what the agent saw, an oracle, demonstrations."""
