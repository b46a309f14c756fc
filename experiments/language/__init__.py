"""Language models of bytes: a transformer and an LSTM learn to write as Shakespeare did.

nets.py        the two nets: logits of every next byte, and how they go on from a state
training.py    the optimizer, many steps on random windows as one program, bits per byte
looks.py       what a net attends to, how sure it is of a passage, which passages are hardest
pictures.py, report.py, experiment.py
"""
