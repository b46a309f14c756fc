"""Where optimizers arrive: on functions with known minima, and on images, from one grid of rates.

families.py    every optimizer that is run, by family
functions.py   the functions: loss, start, minimum
descent.py     a step, and the sweep over rates on a function
ranking.py     which rate is the best, and how good
images.py      the sweep over rates and seeds on a data set
pictures.py, report.py, experiment.py
"""
