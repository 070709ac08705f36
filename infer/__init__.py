"""Inference over images with ONNX Runtime, on machines without PyTorch.

predictor    opens a model as a Python object: the Classifier that netkit.load returns
job          one run over many inputs, from the options to the last row
engines      run a job on this machine or with Ray workers on a cluster
model/       the .onnx file: parsing, certificate, probes, verification
runtime/     ONNX Runtime: sessions, IO binding on a GPU, benchmark, diagnosis of the machine
pipeline/    from inputs to predictions: paths, batches, workers
output/      rows, and the files they are written to
cluster/     a run as numbered Parquet files in a shared folder, written by workers on any machine
evaluation/  accuracy, calibration and robustness on labelled images, and the HTML report
"""
