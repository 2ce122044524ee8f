"""Floor 0: what every room stands on. Standard library, NumPy and SciPy only; torch never enters here."""
