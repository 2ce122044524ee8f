"""Floor 1: the sets S of allowed perturbations, one file each. The pixel box [0, 1] is part of every set."""
