"""Everything that reads or writes a run folder: records, evaluations, comparisons, figures, pages. No torch."""
