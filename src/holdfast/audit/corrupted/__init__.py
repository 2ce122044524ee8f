"""A model under common corruptions: the run, its metrics, and the rule that the test corruptions are not trained on."""
