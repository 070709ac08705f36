"""Decoding of image files that nobody has checked. Needs only numpy and Pillow."""
