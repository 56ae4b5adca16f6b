"""One file a data set: from the archive as it was published to labeled images."""
