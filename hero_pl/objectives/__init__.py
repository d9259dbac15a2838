"""Training signals: each turns a rollout batch into a loss."""
