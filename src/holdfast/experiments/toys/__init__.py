"""``holdfast theory toys``: points in a plane before and after adversarial training, with every square searched whole."""
