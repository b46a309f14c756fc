"""Curvature: K-FAC on an autoencoder, sharpness along training, spectra."""
