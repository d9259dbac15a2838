"""Users: scripted, recorded, a local chat model, or any OpenAI-compatible endpoint."""
