"""Rules: policies that are written down instead of learned, and that a learned policy has to beat."""
