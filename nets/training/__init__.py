"""Training: from a data set and a recipe to weights with their card.

recipe      what to do: optimiser, schedule, epochs, as plain values
device      where to do it, and in which precision
fit         the loop: one epoch after the other, each yielding a row of metrics
metrics     that row, and the file of rows
checkpoint  model.safetensors: weights, with the card in the header
run         all of it together, and the folder that a run leaves
"""
