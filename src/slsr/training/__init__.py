"""The loops that train and apply networks."""
