"""How far few labels go: from scratch, on a frozen base, fine-tuned, with adapters.

images.py      EfficientNet-Lite0 on Fashion-MNIST or on solar cells
texts.py       MiniLM on film reviews
cached.py      what a frozen base makes of data, kept on disk
methods.py     the ways to learn, given a base
pictures.py, report.py, experiment.py
"""
