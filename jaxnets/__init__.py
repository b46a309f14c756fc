"""jaxnets: deep learning as pure functions in JAX, with the factors of backpropagation kept."""
