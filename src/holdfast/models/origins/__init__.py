"""Where users have their classifiers: one file, one place."""
