"""Decoding of untrusted image files. Imports only numpy and Pillow."""
