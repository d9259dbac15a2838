"""Take the result of a run elsewhere: model card, data sets, upload."""
