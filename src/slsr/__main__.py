"""`python -m slsr` is `slsr`."""

from slsr.cli import main

main()
