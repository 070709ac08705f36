"""Training: from a data set and a recipe to weights with a model card.

recipe        hyperparameters: optimizer, schedule, augmentation, precision
schedule      epochs, steps and learning rates of a recipe
device        choice of the device and the precision
distributed   data-parallel training in several processes
feed          loads batches of images to the device
sampling      the images of each epoch, and their order
augment       random affine maps of the images
muon, optim   the optimizer: Muon for convolution kernels, SGD for all other weights
metrics       the metrics of an epoch, and metrics.csv
step_metrics  the metrics of a step, copied from a GPU asynchronously
trainer       the training loop
tensorfile    a safetensors file with a JSON header and a checksum
state         training.safetensors: the saved state of an unfinished training
checkpoint    model.safetensors: weights with their model card
weights       initial weights from a file
record        run.json: the arguments of a run
plots         pictures of a run
tensorboard   logs for TensorBoard
plan          the arguments of a run
run           a whole training run, and the folder that it writes
stopping      delays SIGINT and SIGTERM until the end of a step
"""
