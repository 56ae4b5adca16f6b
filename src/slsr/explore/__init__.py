"""A local web page over a trained model: queries, rankings, activation maps, clusters, generated images."""
