"""Policies: weights, tokenizer, and how tokens are sampled and scored."""
