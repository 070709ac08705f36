"""The parity check: an exported model against PyTorch in float64."""
