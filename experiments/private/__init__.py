"""Training with differential privacy: what it costs in accuracy, and whether the promise holds.

training.py    a run of DP-SGD: Poisson batches in one scan
classifier.py  the net, and its runs at several levels of noise
canaries.py    one run audited: examples planted to be found again
bound.py       what finding them proves
pictures.py, report.py, experiment.py
"""
