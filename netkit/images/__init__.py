"""Decoding images from files that nobody has checked; needs numpy and Pillow only."""
