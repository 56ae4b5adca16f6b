"""A local web page over trained models: queries, rankings, activation maps, clusters, generated images."""
