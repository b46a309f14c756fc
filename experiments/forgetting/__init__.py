"""Tasks learned one after the other, what is forgotten of the earlier ones, and what holds it back.

tasks.py       a data set as a sequence of tasks: two classes at a time, or permuted pixels
methods.py     plain training, slower training, L2 to the start, EWC and replay as one program
pictures.py, report.py, experiment.py
"""
