"""Data sets, without PyTorch. Every source is loaded as a DataSet of uint8 images and their labels.

registry       loads the data set that --data names from one of the sources below
digits         scikit-learn's bundled digits, for machines without a network
mnist          MNIST: folder, hashes and download
idx            MNIST's file format
image_files    image files in class folders (image_folder) or listed in a table (table), one image_entry per file, each
               decoded once to inspect it (inspection)

dataset        the DataSet record
options        how a data set is read, and how its images are prepared and split
lazy           images that are decoded from files on each use
labelled       labelled images for evaluating a model
classification the confusion matrix and the worst mistakes
sample         test images as PNG files for trying out a model
"""
