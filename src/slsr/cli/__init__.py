"""The command `slsr`, one file per group of commands."""
