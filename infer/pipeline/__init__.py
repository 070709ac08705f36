"""From paths to predictions: inputs, batches and workers."""
