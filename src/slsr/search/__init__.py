"""A gallery on disk that can be searched: FAISS indexes of features, with the names of their images."""
