"""Data sets, without PyTorch. Every source gives a DataSet of uint8 images and their labels.

registry       maps the value of --data to one of the sources below
digits         scikit-learn's bundled digits, for machines without a network
mnist          MNIST: its folder, its hashes, its download
idx            MNIST's file format: four files in a folder
image_files    image files in class folders (image_folder) or listed in a table (table); image_entry describes one file

dataset        the DataSet record
options        how images are prepared and split
lazy           images that are decoded from files on each use
labelled       images to evaluate a model on, with classes as the model numbers them
classification the confusion matrix and the worst mistakes
sample         test images as PNG files, to try a model on
"""
