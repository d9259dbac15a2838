"""Read and write run folders: records, evaluations, comparisons, plots, pages. This package does not import torch."""
