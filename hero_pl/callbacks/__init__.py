"""Lightning callbacks: turn budget, held-out evaluation, checkpoints, collapse guard, logs, export."""
