"""`python -m slsr` is `slsr`."""

from slsr.cli.main import main

main()
