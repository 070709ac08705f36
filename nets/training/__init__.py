"""Training: from a data set and a recipe to weights with their card. Read in this order:

recipe      what to do: optimiser, schedule, augmentation, as plain values
timetable   how many images and steps that makes, epoch by epoch
device      where to do it, and in which precision
ranks       the processes that do it together, if there are several
feed        images on their way to the device
augment     what happens to the images before the net sees them
muon        steps of kernels that are near orthogonal
optimizer   what moves which weight
metrics     what an epoch is judged by, and the file of rows
glance      how it stands, read without making a GPU wait
fit         the loop, one step after the other; its state can be taken and given back
tensorfile  tensors and what is said about them, on disk, and how damage is found
state       that state on disk, of a run that has not ended
checkpoint  model.safetensors: weights, with the card in the header
weights     weights of somebody else's, to begin with
plots       pictures of a run, for people
tensorboard the same as logs, for TensorBoard
record      run.json: what a run was asked to do
run         all of it together, and the folder that a run leaves
stopping    signals that wait until the step has ended
"""
