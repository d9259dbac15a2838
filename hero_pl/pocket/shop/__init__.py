"""The pocket shop: rules, demonstrations, rule-based reflector."""
