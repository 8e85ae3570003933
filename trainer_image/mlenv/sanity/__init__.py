"""Whether a checkpoint is worth going on from: checks that observe until they are armed."""
