"""Where images and labels come from. Each source gives the same thing: uint8 images and their labels.

options   what can be asked of a data set: its images' size and channels, and how it is split
lazy      images in files, decoded when they are asked for
dataset   the DataSet record
idx       MNIST's file format: four files in a folder
mnist     MNIST itself: where its files lie, their hashes, and the download
digits    scikit-learn's bundled handwritten digits, for machines with no network
folder    image files in class folders, or listed in a table
sources   the only map from what --data says to one of them
labelled  images to judge a model by, with classes as it numbers them
sample    test images as PNG files, to try a model on
"""
