"""Floor 5: a finished run, or several side by side, as one HTML file that opens offline."""
