"""Text by a pretrained language model, and how sure it was of each token.

generation.py   the model, its tokenizer, generation as one compiled program, probabilities
pictures.py, report.py, experiment.py
"""
