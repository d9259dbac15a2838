"""What the self-teacher is shown, and which weights it uses."""
