"""Prompts as token ids: chat templates, hint insertion, action parsing."""
