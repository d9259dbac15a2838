"""Whether sampler, scorer and the plain forward pass of a model agree: played on a small copy of its architecture."""
