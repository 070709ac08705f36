"""Running a model over images with ONNX Runtime, on machines that never see PyTorch. Read in this order:

model     read an .onnx file, refuse what is unsafe, take its card
certificate  what a model was compared with, and what came out: it carries that
probes    images with their logits, which it carries to prove itself by
runtime   ONNX Runtime, its telemetry off
session   open it on a device, or say why that device cannot be used
verify    whether a model is the certified one, and answers here as it did there
images    find the files, turn each into the pixels that the card asks for
pipeline  decode and compute side by side; one row an input
rows      what a row holds, how rows are written, how they are counted
bench     how fast a model runs here
console   what a person sees meanwhile

Of `nets` it knows only what needs the standard library alone: card, errors, fields, files, machine.
"""
