"""Train multi-turn LLM agents by hindsight self-distillation."""

__version__ = "0.1.0"
