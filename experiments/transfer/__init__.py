"""How far few labels go: from scratch, on a frozen base, fine-tuned, with adapters.

images.py      EfficientNet-Lite0 on Fashion-MNIST or on solar cells
texts.py       MiniLM on film reviews
base.py        a base and a task, as all below takes them
cached.py      what a frozen base makes of data, kept on disk
labels.py      which examples have labels, and which of these are held out
heads.py       linear heads on a frozen base
learner.py     a way to learn by steps, and the loop
scratch.py     a net that knows nothing before
tuning.py      fine-tuning, at once or in turn, and adapters
held_out.py    rate and number of steps, chosen
results.py, pictures.py, report.py, experiment.py
"""
