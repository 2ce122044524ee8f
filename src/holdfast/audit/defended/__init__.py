"""A model behind a defence at inference, beside the model without it: against who knows of the defence, and who does not."""
