"""The networks: the encoder of persons, the generators, and the files they live in."""
