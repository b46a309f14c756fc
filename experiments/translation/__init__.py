"""Translation: an encoder-decoder learns one language from the other, pair by pair.

pairs.py       sentences and their translations, and which of them are held out
vocabulary.py  byte-pair encoding, and sentences as rows of ids
nets.py        the transformer and the LSTM as the same four functions
training.py    whole epochs of batches of like lengths in one scan
scoring.py     translations, and their BLEU
pictures.py, report.py, experiment.py
"""
