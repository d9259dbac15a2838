"""The pocket suites, a shop and a retail desk that a laptop can train on: rules, demonstrations, base policies."""
