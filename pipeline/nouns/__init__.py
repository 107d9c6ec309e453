"""What travels, and what every setting is. Imports nothing of the house."""
