"""Which servers are awake: who waits for whom, who makes room, and what is undone when a change fails."""
