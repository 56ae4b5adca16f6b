"""The project around the code: git, dvc.lock, remotes, the gate and the doctor."""
