"""K-means, silhouettes, and the identities of each cluster."""
