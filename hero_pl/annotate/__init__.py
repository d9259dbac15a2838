"""Measure the quality of diagnoses: sample turns, label them (people, a judge model or rules), report."""
