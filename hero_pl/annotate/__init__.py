"""Diagnosis quality by annotation: sampled turns, forms, a judge, labels by rule, and the report on them."""
