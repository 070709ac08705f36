"""One run over many machines that share a folder."""
