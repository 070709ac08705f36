"""Running a model over images with ONNX Runtime, on machines that never see PyTorch. Read in this order:

model     read an .onnx file, refuse what is unsafe, take its card
certificate  what a model was compared with, and what came out: it carries that
probes    images with their logits, which it carries to prove itself by
runtime   ONNX Runtime, its telemetry off
binding   buffers on a GPU, for batches of one size that come again and again
session   open it on a device, or say why that device cannot be used
verify    whether a model is the certified one, and answers here as it did there
paths     the files that were named: by folders, globs, or a list on stdin
rows      what a row holds, how rows are written, how they are counted
results   the file of rows: whole or not there, and gone on with after a stop
parquet   the same in columns
brightness  how bright images are, and whether the model was trained on such
team      threads, and the one that gives them work
processes the same with forks, which share no lock
pipeline  decode and compute side by side; one row an input
job       all of it together: from what was asked for to the last row
shards    a run's inputs in numbered parts, and what makes a part's rows
cluster   a run as such parts in a folder, by workers anywhere
on_ray    those workers as Ray's actors
engines   a job by this machine alone, or by those
classifier  the same as a Python object
corruption  what befalls images in the world: fifteen ways
evaluate  how good the answers are, where the classes are known
page      the same as an HTML report
bench     how fast a model runs here
doctor    what this machine can run
console   what a person sees meanwhile

Of `nets` it knows only what needs no torch: card, errors, fields, files, machine, remote, and images, by which
training and inference decode alike.
"""
