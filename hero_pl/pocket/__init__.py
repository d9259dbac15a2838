"""The pocket shop: rules, demonstrations and base policy of the run that a laptop finishes in minutes."""
