"""Pure: time, chance and answers come in from outside. Each imports nouns only."""
