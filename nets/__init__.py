"""Networks and their training, in PyTorch.

inception, residual, preact, densenet    netkit's networks, written like the figures in their papers
sizes        checks of the input size
normalize    converts uint8 pixels to normalized floats, the step before every network
build        creates a network by name, or from a model card
external     creates torchvision's classifiers, and networks from the user's modules
summary      counts parameters and multiply-adds per layer
training/    recipes, the training loop, and the files of a run

Importing this package does not load torch; creating a network loads it.
"""

from netkit.nets.build import create

__all__ = ["create"]
