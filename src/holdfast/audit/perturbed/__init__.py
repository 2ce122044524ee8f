"""A model along perturbation sequences: the run, and how often it changes its mind."""
