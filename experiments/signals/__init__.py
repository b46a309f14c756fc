"""Signals and their classes: a convolutional and a recurrent net side by side."""
