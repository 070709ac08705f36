"""Running a model over images with ONNX Runtime, on machines without PyTorch.

predictor    a model as a Python object: what netkit.load returns
job          one run over many inputs, from the options to the last row
engines      what runs a job: this machine, or Ray workers on a cluster
model/       the .onnx file: reading it safely, its certificate and probes, verifying it
runtime/     ONNX Runtime: sessions, io binding on a GPU, benchmark, diagnosis of the machine
pipeline/    from inputs to predictions: paths, batches, workers
output/      rows, and the files they are written to
cluster/     a run as numbered parts in a shared folder, made by workers anywhere
evaluation/  accuracy, calibration and robustness on labelled images, and the HTML report
"""
