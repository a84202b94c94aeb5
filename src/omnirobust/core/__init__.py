"""The problem (4) and Algorithm 1: no models, no images."""
