"""Export the result of a run: model card, data sets, upload."""
