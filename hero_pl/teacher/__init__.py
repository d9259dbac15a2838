"""Teachers: the hints of the self-teacher, and its weights."""
