"""Accuracy, calibration and robustness of a model on labelled images, and the report."""
