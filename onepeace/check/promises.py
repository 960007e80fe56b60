"""What each type that a model computes in may cost: the promises that checks hold an installation to."""

REFERENCE = {"float32": (1e-4, 1e-5), "bfloat16": (None, 1e-3), "int8": (None, 1e-2)}  # a number; cosine distance
STABLE = {"float32": 1e-5, "bfloat16": 1e-3}  # cosine distance that others in the batch may cost
ANSWERS = 1e-4  # by which a probability, a share of a picture or a logit may change with others in the batch
