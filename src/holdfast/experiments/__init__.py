"""Floor 5: experiments that the literature knows, each one command with a figure and a table."""
