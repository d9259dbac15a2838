"""The pocket retail desk: commands, rules, demonstrations, rule-based reflector."""
