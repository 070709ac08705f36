"""Networks, their data and their training, in PyTorch. Read in this order:

card       what a net is and what it eats: the one record that travels from training to inference
errors     what can go wrong, as one tree
fields     JSON from a file, read by name and type
files      how a file gets its final name: whole or not at all
process    the process to whoever started it: streams, signals, faults as a line and an exit code
machine    how many cores there are to use, and whether there is a CUDA driver
bounds     what decoding an image may take, by its header
png        a PNG file's checksums, and a short way to the pixels of plain ones
remote     files behind URLs
images     turn a file into the pixels that a card asks for, or say why not
inception, residual, preact, densenet    the nets, each like the figure it comes from
pixels     the step before the net: uint8 pixels to normalised floats
names      what architectures are called
build      from a card to its net
foreign    nets that are not netkit's own: torchvision's, and classes of the user's
runs       where runs live, and what lies in them
counts     parameters and multiply-adds, layer by layer
data/      where images and labels come from
training/  recipe, loop, and what a run leaves on disk

card, errors, fields, files, names, process, machine and remote need the standard library alone, images, png and bounds
Pillow besides: these are all that `infer` may import.
"""
