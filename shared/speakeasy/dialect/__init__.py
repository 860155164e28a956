"""What belongs to a regional variety: evaluation prompts and dialogues to read aloud."""
