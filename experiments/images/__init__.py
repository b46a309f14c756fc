"""Images made by autoencoders, a GAN, diffusion and flow matching, and how far off they are.

python -m experiments images
python -m experiments images --data fashion-mnist --models diffusion --quick
"""
