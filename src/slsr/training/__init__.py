"""Training a classifier of identities: the loop, the learning rates, compilation and curves."""
