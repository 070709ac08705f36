"""Inference on many workers, on one or more machines that share a folder."""
