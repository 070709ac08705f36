"""Networks and their training, in PyTorch. Read in this order:

inception, residual, preact, densenet    netkit's networks, each written like the figure in its paper
sizes        the size of an input image
normalize    uint8 pixels to normalized floats, the step before every network
build        create a network by name, or from a model card
external     torchvision's classifiers, and classes in the user's own modules
summary      parameters and multiply-adds, layer by layer
training/    recipes, the training loop, and what a run leaves on disk

Importing this package does not load torch; creating a network does.
"""

from netkit.nets.build import create

__all__ = ["create"]
