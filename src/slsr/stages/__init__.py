"""One file a DVC stage, named as in dvc.yaml: read inputs, call the rooms below, write outputs.

Each has `run(params, ...)`, and works in the current folder, the root of the project.
"""
