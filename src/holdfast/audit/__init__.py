"""Floor 4: how an evaluation is planned, run, resumed, believed or doubted."""
