"""TCP operator."""
