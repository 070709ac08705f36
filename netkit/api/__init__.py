"""The public API: the only layer that joins training with export."""
