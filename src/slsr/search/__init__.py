"""Search in a gallery: FAISS indexes of features with the names of their images."""
