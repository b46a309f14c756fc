"""What per-example gradients say of data and of training: wrong labels, influences, noise.

labels.py      a share of the labels made wrong
training.py    training as one pass: the gradient, and what is seen of its noise at every step
scores.py      over a run's checkpoints, each example's influences; rankings by them
cost.py        what the statistics cost beside a step
pictures.py, report.py, experiment.py
"""
