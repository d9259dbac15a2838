"""The pocket suites, a shop and a retail desk small enough for a laptop: rules, demonstrations, base policies."""
