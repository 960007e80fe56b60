"""What a task's model answers: questions of one or more modalities in, labels, choices, boxes or moments out."""
