"""Training: from a data set and a recipe to weights with a model card. Read in this order:

recipe        what to do, as plain values: optimizer, schedule, augmentation, precision
schedule      epochs, steps and learning rates of a recipe
device        where to train, and in which precision
distributed   the processes that train one network together
feed          images on their way to the device
sampling      the images that each epoch learns from, and their order
augment       random affine maps of the images
muon, optim   the optimizer: Muon for convolution kernels, SGD for everything else
metrics       the metrics of an epoch, and metrics.csv
step_metrics  the metrics of a step, read without making a GPU wait
trainer       the training loop
tensorfile    a safetensors file with a JSON header and a checksum
state         training.safetensors: a training that has not ended
checkpoint    model.safetensors: weights with their model card
weights       initial weights from elsewhere
record        run.json: the arguments of a run
plots         pictures of a run
tensorboard   logs for TensorBoard
run           all of it together, and the folder that a run leaves
stopping      SIGINT and SIGTERM, delayed until a step has ended
"""
