"""What happens around training: budget, held-out evaluation, logs, export."""
